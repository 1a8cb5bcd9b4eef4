// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

// etcdPatience is how long a command waits for etcd, which a daemon does for ever.
const etcdPatience = 10 * time.Second

// registerEtcd declares flanneld's flags about etcd, for all commands that use it.
func registerEtcd(flags *pflag.FlagSet, o *store.Options) {
	o.Endpoints = []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}
	flags.Var((*commaList)(&o.Endpoints), "etcd-endpoints", "etcd's client `URLs`, separated by commas")
	flags.StringVar(&o.Prefix, "etcd-prefix", store.DefaultPrefix, "prefix of the network's keys in etcd")
	flags.StringVar(&o.CAFile, "etcd-cafile", "", "CA that signed etcd's certificate")
	flags.StringVar(&o.CertFile, "etcd-certfile", "", "client certificate for etcd")
	flags.StringVar(&o.KeyFile, "etcd-keyfile", "", "key of the client certificate")
	flags.StringVar(&o.Username, "etcd-username", "", "user name for etcd")
	flags.StringVar(&o.Password, "etcd-password", "", "password for etcd (better by the environment)")
}

// commaList is a flag of several values in one string, as flanneld's
// --etcd-endpoints; given again, it replaces them.
type commaList []string

func (l *commaList) String() string { return strings.Join(*l, ",") }
func (l *commaList) Type() string   { return "list" }

func (l *commaList) Set(s string) error {
	*l = nil
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

// useEtcd calls f with the etcd that flags or environment name, or else the one
// that the daemon of this node uses.
func useEtcd(cmd *cobra.Command, o *store.Options, f func(context.Context, *store.Store) error) (err error) {
	// Of the environment, which may be that of a daemon, no more than is about etcd.
	flags := pflag.NewFlagSet("etcd", pflag.ContinueOnError)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "etcd-") {
			flags.AddFlag(f)
		}
	})
	if err = flagsFromEnv(flags); err != nil {
		return err
	}
	if !cmd.Flags().Changed("etcd-endpoints") {
		daemonsEtcd(cmd, o)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), etcdPatience)
	defer cancel()
	defer func() {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("etcd at %v did not answer within %v (where it is, say --etcd-endpoints): %w", (*commaList)(&o.Endpoints), etcdPatience, err)
		}
	}()
	s, err := store.Open(ctx, *o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return f(ctx, s)
}

// daemonsEtcd takes over how this node's daemon reaches etcd, if one runs and
// knows already, in what the user has not said otherwise.
func daemonsEtcd(cmd *cobra.Command, o *store.Options) {
	s, err := fetchStatus(cmd)
	if err != nil || len(s.Etcd.Endpoints) == 0 {
		return // no daemon: the flags' defaults are as good as its own
	}
	o.Endpoints = s.Etcd.Endpoints
	for _, f := range []struct {
		name  string
		to    *string
		value string
	}{
		{"etcd-prefix", &o.Prefix, s.Etcd.Prefix},
		{"etcd-cafile", &o.CAFile, s.Etcd.CAFile},
		{"etcd-certfile", &o.CertFile, s.Etcd.CertFile},
		{"etcd-keyfile", &o.KeyFile, s.Etcd.KeyFile},
		{"etcd-username", &o.Username, s.Etcd.Username},
	} {
		if !cmd.Flags().Changed(f.name) {
			*f.to = f.value
		}
	}
}
