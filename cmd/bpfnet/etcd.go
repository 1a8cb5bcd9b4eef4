// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

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
