// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestFlagsFromEnv(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		args []string
		flag string
		want string
		err  string
	}{
		"none: the default": {flag: "etcd-prefix", want: "/coreos.com/network"},
		"flanneld's name": {
			env:  map[string]string{"FLANNELD_ETCD_PREFIX": "/f"},
			flag: "etcd-prefix", want: "/f",
		},
		"our name": {
			env:  map[string]string{"BPFNET_ETCD_PREFIX": "/b"},
			flag: "etcd-prefix", want: "/b",
		},
		"our name before flannel": {
			env:  map[string]string{"FLANNELD_ETCD_PREFIX": "/f", "BPFNET_ETCD_PREFIX": "/b"},
			flag: "etcd-prefix", want: "/b",
		},
		"the command line before both": {
			env:  map[string]string{"FLANNELD_ETCD_PREFIX": "/f", "BPFNET_ETCD_PREFIX": "/b"},
			args: []string{"--etcd-prefix=/c"}, flag: "etcd-prefix", want: "/c",
		},
		"the command line, even where it says the default": {
			env:  map[string]string{"FLANNELD_ETCD_PREFIX": "/f"},
			args: []string{"--etcd-prefix=/coreos.com/network"}, flag: "etcd-prefix", want: "/coreos.com/network",
		},
		"empty is not set": {
			env:  map[string]string{"BPFNET_SUBNET_LEASE_RENEW_MARGIN": "", "FLANNELD_SUBNET_LEASE_RENEW_MARGIN": "30"},
			flag: "subnet-lease-renew-margin", want: "30",
		},
		"empty leaves the default": {
			env:  map[string]string{"FLANNELD_ETCD_ENDPOINTS": ""},
			flag: "etcd-endpoints", want: "http://127.0.0.1:4001,http://127.0.0.1:2379",
		},
		"a list, in place of the default": {
			env:  map[string]string{"FLANNELD_ETCD_ENDPOINTS": "http://a:1,http://b:2"},
			flag: "etcd-endpoints", want: "http://a:1,http://b:2",
		},
		"a switch": {
			env:  map[string]string{"BPFNET_FAST_PATH": "false"},
			flag: "fast-path", want: "false",
		},
		"a flag of all commands": {
			env:  map[string]string{"BPFNET_RUN_DIR": "/run/other"},
			flag: "run-dir", want: "/run/other",
		},
		"a regular expression with a comma": {
			env:  map[string]string{"FLANNELD_IFACE_REGEX": `^10\.{1,3}`},
			flag: "iface-regex", want: "[\"^10\\.{1,3}\"]",
		},
		"somebody's note of the version": {
			env:  map[string]string{"FLANNELD_VERSION": "v0.28.4"},
			flag: "version", want: "false",
		},
		"a prefix of neither": {
			env:  map[string]string{"ETCD_PREFIX": "/x", "FLANNEL_ETCD_PREFIX": "/x"},
			flag: "etcd-prefix", want: "/coreos.com/network",
		},
		"a value that is none": {
			env: map[string]string{"FLANNELD_SUBNET_LEASE_RENEW_MARGIN": "soon"},
			err: `read FLANNELD_SUBNET_LEASE_RENEW_MARGIN: invalid argument "soon" for "--subnet-lease-renew-margin" flag`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			flags := daemonFlagSet(t)
			if err := flags.Parse(test.args); err != nil {
				t.Fatal(err)
			}
			err := flagsFromEnv(flags)
			if test.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := flags.Lookup(test.flag).Value.String(); got != test.want {
				t.Errorf("--%s is %s, want %s", test.flag, got, test.want)
			}
		})
	}
}

// TestFlagsFromEnvTellsOfAll: two wrong values are both named.
func TestFlagsFromEnvTellsOfAll(t *testing.T) {
	t.Setenv("BPFNET_MAX_HOSTS", "many")
	t.Setenv("FLANNELD_FAST_PATH", "perhaps")
	err := flagsFromEnv(daemonFlagSet(t))
	for _, name := range []string{"BPFNET_MAX_HOSTS", "FLANNELD_FAST_PATH"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
}

// TestEveryFlagHasItsVariables, one by each prefix.
func TestEveryFlagHasItsVariables(t *testing.T) {
	values := map[string]string{"string": "x", "stringSlice": "x,y", "stringArray": "x", "list": "x,y", "int": "7", "uint16": "7", "uint32": "7", "bool": ""}
	daemonFlagSet(t).VisitAll(func(f *pflag.Flag) {
		if f.Name == "version" {
			return
		}
		value, ok := values[f.Value.Type()]
		if !ok {
			t.Fatalf("--%s is a %s, of which this test knows no value", f.Name, f.Value.Type())
		}
		if f.Value.Type() == "bool" {
			value = map[string]string{"true": "false", "false": "true"}[f.DefValue]
		}
		for _, prefix := range envPrefixes {
			t.Run(prefix+f.Name, func(t *testing.T) {
				t.Setenv(prefix+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")), value)
				flags := daemonFlagSet(t)
				if err := flagsFromEnv(flags); err != nil {
					t.Fatal(err)
				}
				if got := strings.Trim(flags.Lookup(f.Name).Value.String(), "[]"); got != value {
					t.Errorf("--%s is %q, want %q", f.Name, got, value)
				}
			})
		}
	})
}

// daemonFlagSet is the daemon's flags, those of all commands included.
func daemonFlagSet(t *testing.T) *pflag.FlagSet {
	t.Helper()
	cmd, _, err := newRootCommand().Find([]string{"daemon"})
	if err != nil {
		t.Fatal(err)
	}
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.InheritedFlags())
	return flags
}
