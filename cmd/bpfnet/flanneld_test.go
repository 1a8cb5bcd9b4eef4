// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// TestFlanneldsFlags: all that `flanneld -help` of v0.28.4 names are ours too, with its defaults.
func TestFlanneldsFlags(t *testing.T) {
	want := map[string]string{
		"etcd-endpoints": "http://127.0.0.1:4001,http://127.0.0.1:2379", "etcd-prefix": "/coreos.com/network",
		"etcd-cafile": "", "etcd-certfile": "", "etcd-keyfile": "", "etcd-username": "", "etcd-password": "",
		"iface": "[]", "iface-regex": "[]", "iface-can-reach": "", "public-ip": "", "public-ipv6": "",
		"subnet-file": "/run/flannel/subnet.env", "subnet-lease-renew-margin": "60",
		"ip-masq": "false", "ip-masq-fully-random-disable": "false", "iptables-forward-rules": "true", "iptables-resync": "5",
		"ip-blackhole-route": "false", "healthz-ip": "0.0.0.0", "healthz-port": "0", "version": "false",
		"kube-subnet-mgr": "false", "kube-api-url": "", "kube-annotation-prefix": "flannel.alpha.coreos.com",
		"kubeconfig-file": "", "net-config-path": "/etc/kube-flannel/net-conf.json", "set-node-network-unavailable": "true",
		"v": "0", "vmodule": "", "log_backtrace_at": "",
	}
	got := map[string]string{}
	flags := daemonFlagSet(t)
	for name := range want {
		if f := flags.Lookup(name); f != nil {
			got[name] = f.DefValue
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags and defaults (-flanneld +ours):\n%s", diff)
	}
}

// parse reads a command line of the daemon's as main does.
func parse(t *testing.T, argv ...string) (*daemonFlags, error) {
	t.Helper()
	f := &daemonFlags{}
	flags := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	f.registerFlanneld(flags)
	f.register(flags)
	args := arguments(argv)
	if len(args) == 0 || args[0] != "daemon" {
		t.Fatalf("%q is %q, not the daemon", argv, args)
	}
	return f, flags.Parse(args[1:])
}

// TestGoSyntax: flags are read as Go's package flag reads flanneld's.
func TestGoSyntax(t *testing.T) {
	type values struct {
		Endpoints, Iface, Regex []string
		PublicIP                string
		Masq, Forward           bool
		Margin, V               int
	}
	defaults := values{Endpoints: []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}, Forward: true, Margin: 60}
	for line, change := range map[string]func(*values){
		"":                                      func(*values) {},
		"-iface=eth0":                           func(v *values) { v.Iface = []string{"eth0"} },
		"-iface eth0":                           func(v *values) { v.Iface = []string{"eth0"} },
		"--iface=eth0":                          func(v *values) { v.Iface = []string{"eth0"} },
		"--iface eth0 -iface eth1":              func(v *values) { v.Iface = []string{"eth0", "eth1"} },
		"-iface=eth0,eth1":                      func(v *values) { v.Iface = []string{"eth0,eth1"} },
		"-iface=":                               func(v *values) { v.Iface = []string{""} },
		"-iface-regex ^10\\.{1,3}":              func(v *values) { v.Regex = []string{`^10\.{1,3}`} },
		"-iface-regex -x -ip-masq":              func(v *values) { v.Regex, v.Masq = []string{"-x"}, true },
		"-iface -iface":                         func(v *values) { v.Iface = []string{"-iface"} },
		"-etcd-endpoints=http://a:1,http://b:2": func(v *values) { v.Endpoints = []string{"http://a:1", "http://b:2"} },
		"-etcd-endpoints http://a:1 --etcd-endpoints http://b:2": func(v *values) { v.Endpoints = []string{"http://b:2"} },
		"-ip-masq":                        func(v *values) { v.Masq = true },
		"-ip-masq=T":                      func(v *values) { v.Masq = true },
		"--ip-masq=1":                     func(v *values) { v.Masq = true },
		"-ip-masq -ip-masq=f":             func(*values) {},
		"-iptables-forward-rules=0":       func(v *values) { v.Forward = false },
		"-subnet-lease-renew-margin=5":    func(v *values) { v.Margin = 5 },
		"-subnet-lease-renew-margin 0x1e": func(v *values) { v.Margin = 30 },
		"-v=2":                            func(v *values) { v.V = 2 },
		"-v 2":                            func(v *values) { v.V = 2 },
		"--v=2 -public-ip 192.0.2.1":      func(v *values) { v.V, v.PublicIP = 2, "192.0.2.1" },
	} {
		for _, name := range []string{"/opt/bin/flanneld", "bpfnet daemon"} {
			t.Run(name+" "+line, func(t *testing.T) {
				f, err := parse(t, strings.Fields(name+" "+line)...)
				if err != nil {
					t.Fatal(err)
				}
				want := defaults
				change(&want)
				got := values{
					f.node.Etcd.Endpoints, f.node.Underlay.Iface, f.node.Underlay.IfaceRegex,
					f.publicIP, f.firewall.ipMasq, f.firewall.forwardRules, f.renewMargin, f.verbosity,
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		}
	}
}

func TestGoSyntaxErrors(t *testing.T) {
	for line, want := range map[string]string{
		"-no-such":            "unknown flag: --no-such",
		"-ip-masq=yes":        `invalid argument "yes" for "--ip-masq" flag`,
		"-iface":              "flag needs an argument: --iface",
		"-healthz-port=http":  `invalid argument "http" for "--healthz-port" flag`,
		"-iptables-resync=5s": `invalid argument "5s" for "--iptables-resync" flag`,
	} {
		if _, err := parse(t, "flanneld", line); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", line, err, want)
		}
	}
}

// TestOtherCommandsArguments are left alone.
func TestOtherCommandsArguments(t *testing.T) {
	for _, line := range []string{"bpfnet status -o json", "bpfnet lab exec h1/c1 -- daemon -iface x", "bpfnet", "bpfnet no-such -iface"} {
		argv := strings.Fields(line)
		if diff := cmp.Diff(argv[1:], arguments(argv)); diff != "" {
			t.Errorf("%s:\n%s", line, diff)
		}
	}
}

func FuzzArguments(f *testing.F) {
	f.Add("-iface=eth0\x00-ip-masq\x00--\x00-v")
	f.Add("--\x00-iface")
	f.Fuzz(func(t *testing.T, line string) {
		argv := append([]string{"flanneld"}, strings.Split(line, "\x00")...)
		if got := arguments(argv); len(got) != len(argv) {
			t.Errorf("%q became %q", argv, got)
		}
	})
}

// TestFlanneldFlagsRefused, with what to do, before anything is touched.
func TestFlanneldFlagsRefused(t *testing.T) {
	for line, want := range map[string]string{
		"-kube-subnet-mgr":           "--kube-subnet-mgr: bpfnet takes subnets from etcd",
		"-iptables-resync=0":         "--iptables-resync 0: must be 1 second or more",
		"-subnet-file=":              "--subnet-file: is empty",
		"-etcd-endpoints=,":          "--etcd-endpoints: is empty",
		"-etcd-prefix=":              "--etcd-prefix: is empty",
		"-public-ip=0.0.0.0":         "--public-ip 0.0.0.0: is no address that other nodes could reach this one by",
		"-public-ip=127.0.0.1":       "--public-ip 127.0.0.1: is no address",
		"-public-ip=224.0.0.1":       "--public-ip 224.0.0.1: is no address",
		"-public-ip=255.255.255.255": "--public-ip 255.255.255.255: is no address",
		"-public-ip=fc00::1":         "--public-ip fc00::1: is no address",
		"-public-ipv6=10.0.0.1":      "--public-ipv6 10.0.0.1: is no address",
		"-public-ipv6=x":             "--public-ipv6: ",
		"-public-ipv6=fe80::1":       "--public-ipv6 fe80::1: is no address",
	} {
		f, err := parse(t, "flanneld", line)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.options(t.TempDir() + "/run"); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line: %s", line, err, want)
		}
	}
}

// TestIdleFlagsAreNamed in one line.
func TestIdleFlagsAreNamed(t *testing.T) {
	for line, want := range map[string]string{
		"": "",
		"-kube-api-url=x -vmodule=a=1 -v=3 -set-node-network-unavailable=false -net-config-path=/x": `flags="--set-node-network-unavailable --vmodule --kube-api-url --net-config-path"`,
		"-public-ipv6=fc00::1": "",
	} {
		flags := daemonFlagSet(t)
		if err := flags.Parse(arguments(append([]string{"flanneld"}, strings.Fields(line)...))[1:]); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		(&daemonFlags{}).warnFlanneld(flags, slog.New(slog.NewTextHandler(&out, nil)))
		if got := out.String(); !strings.Contains(got, want) || strings.Count(got, "\n") > 1 || (want == "") != (got == "") {
			t.Errorf("%s: log %q, want %q", line, got, want)
		}
	}
}

// TestVerbosity: klog's -v is our debug level.
func TestVerbosity(t *testing.T) {
	for line, want := range map[string]string{
		"": "info", "-v=0": "info", "-v=1": "debug", "-v 4": "debug", "-v=10": "debug-4", "-v=4 -log-level=warn": "warn",
	} {
		f, err := parse(t, append([]string{"flanneld"}, strings.Fields(line)...)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.level(); got != want {
			t.Errorf("%s: level %s, want %s", line, got, want)
		}
	}
}

// TestFlanneldVersion goes where flanneld's does: to standard error.
func TestFlanneldVersion(t *testing.T) {
	for _, line := range []string{"flanneld -version", "flanneld --version", "bpfnet daemon --version"} {
		root := newRootCommand()
		root.SetArgs(arguments(strings.Fields(line)))
		var out, errs bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&errs)
		if err := root.ExecuteContext(t.Context()); err != nil || out.Len() != 0 || !strings.HasPrefix(errs.String(), "bpfnet ") {
			t.Errorf("%s: %q, %q, error %v", line, &out, &errs, err)
		}
	}
}

// TestFlanneldHelp names flanneld's flags apart from ours, and starts nothing.
func TestFlanneldHelp(t *testing.T) {
	for _, flag := range []string{"-h", "-help", "--help"} {
		root := newRootCommand()
		root.SetArgs(arguments([]string{"flanneld", flag}))
		var out bytes.Buffer
		root.SetOut(&out)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, flanneld, ok := strings.Cut(out.String(), "Flags of flanneld:")
		flanneld, ours, ok2 := strings.Cut(flanneld, "Flags of bpfnet:")
		if !ok || !ok2 || !strings.Contains(flanneld, "--iface-can-reach") || !strings.Contains(ours, "--fast-path") ||
			strings.Contains(flanneld, "--fast-path") || !strings.Contains(ours, "--run-dir") {
			t.Errorf("%s prints\n%s", flag, &out)
		}
	}
}
