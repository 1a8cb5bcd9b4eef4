// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// envPrefixes are tried in order: our own name wins over flanneld's.
var envPrefixes = []string{"BPFNET_", "FLANNELD_"}

// flagsFromEnv sets every flag that the command line did not from the
// environment: --etcd-endpoints from BPFNET_ETCD_ENDPOINTS or, as flanneld's
// users have it, FLANNELD_ETCD_ENDPOINTS.
func flagsFromEnv(flags *pflag.FlagSet) error {
	var errs error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "version" { // FLANNELD_VERSION is, where people set it, a number
			return
		}
		for _, prefix := range envPrefixes {
			name := prefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			value := os.Getenv(name)
			if value == "" { // as flanneld has it: an environment file may name what it does not set
				continue
			}
			if err := flags.Set(f.Name, value); err != nil {
				errs = errors.Join(errs, fmt.Errorf("read %s: %w", name, err))
			}
			return
		}
	})
	return errs
}
