// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
)

// flanneldName is the name by which the binary is `bpfnet daemon`, so that what
// starts flanneld starts bpfnet.
const flanneldName = "flanneld"

// flanneldFlags are those of flanneld v0.28.4 (its main.go) that are not the
// options of some package of ours.
type flanneldFlags struct {
	ifaceCanReach string
	publicIP      string
	publicIPv6    string
	renewMargin   int // minutes
	healthzIP     string
	healthzPort   uint16
	firewall      firewallFlags
	kubeSubnetMgr bool
	verbosity     int
	version       bool
}

// firewallFlags say what becomes of the host's packet filter.
type firewallFlags struct {
	ipMasq             bool // masquerade what leaves the overlay
	randomFullyDisable bool // without choosing source ports at random
	forwardRules       bool // accept forwarded packets of the network
	resync             int  // seconds between two looks at the rules
}

func (f firewallFlags) options() node.Firewall {
	return node.Firewall{
		Masquerade: f.ipMasq, RandomFully: !f.randomFullyDisable, Forward: f.forwardRules,
		Resync: time.Duration(f.resync) * time.Second,
	}
}

func (f *daemonFlags) registerFlanneld(flags *pflag.FlagSet) {
	o := &f.node
	registerEtcd(flags, &o.Etcd)
	flags.StringArrayVar(&o.Underlay.Iface, "iface", nil, "uplink, by name or address; given again: the first that exists")
	flags.StringArrayVar(&o.Underlay.IfaceRegex, "iface-regex", nil,
		"uplink, by regular expression on addresses, then names; after --iface; may be given again")
	flags.StringVar(&f.ifaceCanReach, "iface-can-reach", "", "uplink: the interface that routes to this address; after --iface-regex")
	flags.StringVar(&f.publicIP, "public-ip", "", "address other nodes reach this one by (default: the uplink's)")
	flags.StringVar(&f.publicIPv6, "public-ipv6", "", "likewise in networks with IPv6")
	flags.StringVar(&o.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "file that tells others the subnet and MTU")
	flags.IntVar(&f.renewMargin, "subnet-lease-renew-margin", 60, "renew the lease this many minutes before it ends, 1 to 1439")
	flags.BoolVar(&f.firewall.ipMasq, "ip-masq", false, "masquerade what containers send out of the network")
	flags.BoolVar(&f.firewall.randomFullyDisable, "ip-masq-fully-random-disable", false,
		"masquerade without choosing source ports at random")
	flags.BoolVar(&f.firewall.forwardRules, "iptables-forward-rules", true,
		"have the FORWARD chain accept the network's packets")
	flags.IntVar(&f.firewall.resync, "iptables-resync", 5, "put firewall rules back this often, in `seconds`")
	flags.BoolVar(&o.Blackhole, "ip-blackhole-route", false, "drop what is for an address of this node's subnet that no interface has")
	flags.StringVar(&f.healthzIP, "healthz-ip", "0.0.0.0", "address on which GET /healthz is answered")
	flags.Uint16Var(&f.healthzPort, "healthz-port", 0, "port on which GET /healthz is answered; 0: on none")
	flags.IntVarP(&f.verbosity, "v", "v", 0, "log `level` of klog's: 1 or more is --log-level=debug, 5 or more debug-4, with what etcd says")
	flags.BoolVar(&f.version, "version", false, "print the version and exit")

	flags.BoolVar(&f.kubeSubnetMgr, "kube-subnet-mgr", false, "refused: subnets come from etcd")
	for _, unused := range kubeFlags {
		flags.String(unused.name, unused.value, "no effect without --kube-subnet-mgr")
	}
	flags.Bool("set-node-network-unavailable", true, "no effect without --kube-subnet-mgr")
	for _, name := range klogFlags {
		flags.String(name, "", "no effect: klog's")
	}
}

// kubeFlags are of use to flanneld with --kube-subnet-mgr alone.
var kubeFlags = []struct{ name, value string }{
	{"kube-api-url", ""},
	{"kube-annotation-prefix", "flannel.alpha.coreos.com"},
	{"kubeconfig-file", ""},
	{"net-config-path", "/etc/kube-flannel/net-conf.json"},
}

// klogFlags are those that nothing of ours answers to.
var klogFlags = []string{"vmodule", "log_backtrace_at"}

// checkFlanneld refuses what cannot be done.
func (f *daemonFlags) checkFlanneld() error {
	switch {
	case f.kubeSubnetMgr:
		return errors.New("--kube-subnet-mgr: bpfnet takes subnets from etcd, not from the Kubernetes API: " +
			"give --etcd-endpoints, or --etcd-embedded to serve one from here")
	case f.renewMargin <= 0 || f.renewMargin >= 24*60:
		return fmt.Errorf("--subnet-lease-renew-margin %d: must be from 1 to 1439 minutes, for a lease lasts 24 hours", f.renewMargin)
	case f.firewall.resync < 1:
		return fmt.Errorf("--iptables-resync %d: must be 1 second or more", f.firewall.resync)
	case f.node.SubnetFile == "":
		return errors.New("--subnet-file: is empty: give a path, container runtimes read it")
	case f.node.Etcd.Prefix == "":
		return errors.New("--etcd-prefix: is empty: give one such as " + store.DefaultPrefix)
	case len(f.node.Etcd.Endpoints) == 0:
		return errors.New("--etcd-endpoints: is empty: give at least one, such as http://127.0.0.1:2379")
	}
	return nil
}

// warnFlanneld tells of flags that do not do what their names say.
func (f *daemonFlags) warnFlanneld(flags *pflag.FlagSet, log *slog.Logger) {
	var idle []string
	for _, name := range append([]string{"set-node-network-unavailable"}, klogFlags...) {
		if flags.Changed(name) {
			idle = append(idle, "--"+name)
		}
	}
	for _, unused := range kubeFlags {
		if flags.Changed(unused.name) {
			idle = append(idle, "--"+unused.name)
		}
	}
	if len(idle) > 0 {
		log.Warn("flags without effect: subnets come from etcd, and the log is not klog's",
			"flags", strings.Join(idle, " "))
	}
}

// level is the log's: klog's -v counts where our own flag is not given.
func (f *daemonFlags) level() string {
	switch {
	case f.logLevel != "info" || f.verbosity < 1:
		return f.logLevel
	case f.verbosity < 5:
		return "debug"
	}
	return "debug-4"
}

// nodeAddr is the value of a flag that holds the address of a node, of one
// family; the zero Addr where it is empty.
func nodeAddr(name, value string, family func(netip.Addr) bool) (netip.Addr, error) {
	a, err := addrFlag(name, value)
	if err != nil || value == "" {
		return a, err
	}
	if a = a.Unmap(); !family(a) || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() ||
		a.Is6() && a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return a, fmt.Errorf("--%s %s: is no address that other nodes could reach this one by", name, value)
	}
	return a, nil
}

// arguments are those of the command line, for cobra. The name flanneld is the
// daemon, and the daemon reads flags as flanneld does.
func arguments(argv []string) []string {
	args := argv[1:]
	if filepath.Base(argv[0]) == flanneldName {
		args = append([]string{"daemon"}, args...)
	}
	cmd, _, err := newRootCommand().Find(args)
	if err != nil || cmd.Name() != "daemon" {
		return args
	}
	cmd.InitDefaultHelpFlag()
	flags := cmd.Flags()
	flags.AddFlagSet(cmd.InheritedFlags())
	return doubleDashes(flags, args)
}

// doubleDashes writes -name for what pflag shall read as Go's package flag
// does, to which one dash is as good as two, as --name. What is the value of a
// flag, or behind a "--", stays as it is.
func doubleDashes(flags *pflag.FlagSet, args []string) []string {
	out := slices.Clone(args)
	for i := 0; i < len(out) && out[i] != "--"; i++ {
		if !strings.HasPrefix(out[i], "-") {
			continue
		}
		name, _, inline := strings.Cut(strings.TrimLeft(out[i], "-"), "=")
		f := flags.Lookup(name)
		if !strings.HasPrefix(out[i], "--") && (f != nil || len(name) > 1) {
			out[i] = "-" + out[i]
		}
		if f != nil && !inline && f.NoOptDefVal == "" {
			i++ // its value
		}
	}
	return out
}

// flagsAlone refuses arguments. flanneld would ignore them and every flag
// behind them.
func flagsAlone(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unknown argument %q: there are flags alone, and the value of a switch is written --ip-masq=true", args[0])
}
