// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"time"

	"github.com/cilium/ebpf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/maps"
)

// daemonFlags are flanneld's, by its names and defaults, and our own.
type daemonFlags struct {
	node node.Options
	flanneldFlags
	sizes     loader.Sizes
	clsact    bool
	dataplane string
	xdp       string
	xdpCPUs   string
	logLevel  string
	logFormat string
}

func newDaemonCommand() *cobra.Command {
	f := &daemonFlags{}
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Join this node to the network",
		Long: "Takes a subnet for this node, keeps the datapath equal to what etcd says, and finds the\n" +
			"node's containers. Stopping it, by whatever signal, changes nothing for the traffic, unless it\n" +
			"copies packets itself (netlink dataplane of a udp network): a new daemon takes over what is\n" +
			"there, and `bpfnet cleanup` removes it.\n\n" +
			"Every flag can be given by the environment as BPFNET_<FLAG> or FLANNELD_<FLAG>, and with one\n" +
			"dash as with two. A link named flanneld to this binary is this command.",
		Args: flagsAlone,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.version { // where flanneld prints its own
				_, err := fmt.Fprintln(cmd.ErrOrStderr(), versionLine())
				return err
			}
			if err := flagsFromEnv(cmd.Flags()); err != nil {
				return err
			}
			runDir, err := cmd.Flags().GetString("run-dir")
			if err != nil {
				return err
			}
			o, err := f.options(runDir)
			if err != nil {
				return err
			}
			f.warnFlanneld(cmd.Flags(), o.Logger)
			spareMemory()
			return node.Run(cmd.Context(), o)
		},
	}
	flanneld, ours := pflag.NewFlagSet("flanneld", pflag.ContinueOnError), pflag.NewFlagSet("bpfnet", pflag.ContinueOnError)
	f.registerFlanneld(flanneld)
	f.register(ours)
	cmd.Flags().AddFlagSet(flanneld)
	cmd.Flags().AddFlagSet(ours)
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		_, err := fmt.Fprintf(cmd.OutOrStderr(), "Usage:\n  %s\n\nFlags of flanneld:\n%s\nFlags of bpfnet:\n%s\nFlags of all commands:\n%s",
			cmd.UseLine(), flanneld.FlagUsages(), ours.FlagUsages(), cmd.InheritedFlags().FlagUsages())
		return err
	})
	return cmd
}

// spareMemory has garbage collected when there is two fifths of what there is in
// use, not as much, unless the environment says otherwise: a daemon that is on every
// node should rather take CPU time at a change of the cluster than memory all the time.
func spareMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
}

// register declares our own flags.
func (f *daemonFlags) register(flags *pflag.FlagSet) {
	o := &f.node
	flags.StringVar(&o.Embedded.Dir, "etcd-embedded", "",
		"serve etcd for a small cluster from this node, with its data in this directory; replaces --etcd-endpoints")
	flags.StringSliceVar(&o.Embedded.Listen, "etcd-embedded-listen", nil,
		"client URLs of the embedded etcd (default http://UPLINK-ADDRESS:2379 and http://127.0.0.1:2379)")
	flags.StringVar(&o.InitConfig, "etcd-init-config", "",
		`network config to write if etcd has none, as {"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`)
	flags.StringVar(&f.dataplane, "dataplane", string(node.EBPF), "ebpf, or netlink: the kernel's own devices do the packet work")
	flags.StringVar(&f.xdp, "xdp", string(xdp.Off),
		"check tunnel packets on the uplink before the kernel makes anything of them: off; generic: drop forged ones; "+
			"native: decapsulate as well, before GRO; auto: native where the driver has it at no cost to other traffic, else off")
	flags.StringVar(&f.xdpCPUs, "xdp-cpus", "", "with --xdp, spread received IPIP packets over these CPUs by their inner flow, as 0-3,8")
	flags.BoolVar(&o.FastPath, "fast-path", true,
		"take containers' packets past the host's FORWARD chain and conntrack; false sends all through the kernel's path")
	flags.BoolVar(&o.UDP6ZeroChecksum, "udp6-zero-checksum", true,
		"have other nodes of ours send this one VXLAN over IPv6 without UDP checksums (RFC 6935), all of it by the fast path; "+
			"false where something on the way drops such packets")
	flags.BoolVar(&o.BridgeHeadroom, "bridge-headroom", false,
		"have the containers' bridges leave room for outer headers in front of packets, by a device of ours, always down, as a port: "+
			"small datagrams are sent faster")
	flags.Uint32Var(&f.sizes.Routes, "max-routes", 65536, "capacity for subnets of other lengths than the network's SubnetLen")
	flags.Uint32Var(&f.sizes.Hosts, "max-hosts", 16384, "capacity for nodes")
	flags.Uint32Var(&f.sizes.Neighbours, "max-neighbours", 65536, "capacity for VTEP and neighbour addresses")
	flags.Uint32Var(&f.sizes.Endpoints, "max-endpoints", 4096, "capacity for this node's containers")
	flags.BoolVar(&f.clsact, "clsact", false, "attach by clsact filters even where the kernel has tcx")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
}

// options checks the flags and turns them into the daemon's options.
func (f *daemonFlags) options(runDir string) (node.Options, error) {
	o := f.node
	o.RunDir = runDir
	o.RenewMargin = time.Duration(f.renewMargin) * time.Minute
	err := f.checkFlanneld()
	if err != nil {
		return o, err
	}
	if err = checkSizes(f.sizes); err != nil {
		return o, err
	}
	if err = checkEtcd(o); err != nil {
		return o, err
	}
	for _, s := range o.Underlay.IfaceRegex {
		if _, err = regexp.Compile(s); err != nil {
			return o, fmt.Errorf("--iface-regex: %w", err)
		}
	}
	if o.Underlay.CanReach, err = addrFlag("iface-can-reach", f.ifaceCanReach); err != nil {
		return o, err
	}
	if o.Underlay.PublicIP, err = nodeAddr("public-ip", f.publicIP, netip.Addr.Is4); err != nil {
		return o, err
	}
	if o.Underlay.PublicIPv6, err = nodeAddr("public-ipv6", f.publicIPv6, netip.Addr.Is6); err != nil {
		return o, err
	}
	healthzIP, err := addrFlag("healthz-ip", cmp.Or(f.healthzIP, "0.0.0.0"))
	if err != nil {
		return o, err
	}
	o.Healthz = netip.AddrPortFrom(healthzIP, f.healthzPort)
	if o.Logger, err = newLogger(f.level(), f.logFormat); err != nil {
		return o, err
	}
	if o.Dataplane, err = node.ParseDataplane(f.dataplane); err != nil {
		return o, fmt.Errorf("--dataplane: %w", err)
	}
	if o.XDP.Mode, err = xdp.ParseMode(f.xdp); err != nil {
		return o, fmt.Errorf("--xdp: %w", err)
	}
	if o.XDP.CPUs, err = xdpCPUs(f.xdpCPUs); err != nil {
		return o, fmt.Errorf("--xdp-cpus: %w", err)
	}
	if o.Dataplane == node.EBPF {
		if err = loader.Probe(); err != nil {
			return o, err
		}
		if _, err = loader.EnsurePinDir(runDir); err != nil {
			return o, err
		}
	}
	o.Firewall = f.firewall.options()
	f.bindLoader(&o)
	return o, nil
}

func xdpCPUs(list string) ([]uint16, error) {
	possible, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	return xdp.ParseCPUs(list, possible)
}

// bindLoader gives the daemon the programs that are pinned in its run directory.
func (f *daemonFlags) bindLoader(o *node.Options) {
	runDir := o.RunDir
	o.Open = func(s bpf.DatapathSettings) (node.Datapath, error) {
		pinDir, err := loader.EnsurePinDir(runDir)
		if err != nil {
			return nil, err
		}
		d, err := loader.Open(loader.Options{PinDir: pinDir, Settings: s, Sizes: f.sizes, Clsact: f.clsact})
		if err != nil {
			return nil, err // not a nil *Datapath in an interface that is none
		}
		return d, nil
	}
	o.Unload = func() error { return loader.Unload(runDir) }
	o.AdoptPinned = func() (*maps.Set, error) {
		pinDir, err := loader.PinDir(runDir)
		if err != nil {
			return nil, err
		}
		return maps.AdoptPinned(filepath.Join(pinDir, "maps"))
	}
}

// checkEtcd refuses what no etcd could mend.
func checkEtcd(o node.Options) error {
	if err := o.Etcd.Validate(); err != nil && o.Embedded.Dir == "" {
		return fmt.Errorf("--etcd-endpoints and their files: %w", err)
	}
	if o.InitConfig != "" {
		if _, err := store.ParseConfig([]byte(o.InitConfig)); err != nil {
			return fmt.Errorf("--etcd-init-config: %w", err)
		}
	}
	if len(o.Embedded.Listen) > 0 && o.Embedded.Dir == "" {
		return errors.New("--etcd-embedded-listen: is for --etcd-embedded, which names the directory of its data")
	}
	for _, s := range o.Embedded.Listen {
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" || u.Port() == "" {
			return fmt.Errorf("--etcd-embedded-listen %q: is no URL to listen on: give one such as http://192.0.2.1:2379", s)
		}
	}
	return nil
}

// checkSizes refuses maps without room for what every node has.
func checkSizes(s loader.Sizes) error {
	for _, size := range []struct {
		flag       string
		value, min uint32
	}{
		{"max-routes", s.Routes, 1},
		{"max-hosts", s.Hosts, uint32(bpf.DatapathHostIndexHOST_FIRST) + 1}, // none, this node, and one more
		{"max-neighbours", s.Neighbours, 1},
		{"max-endpoints", s.Endpoints, 1},
	} {
		if size.value < size.min {
			return fmt.Errorf("--%s %d: must be at least %d", size.flag, size.value, size.min)
		}
	}
	return nil
}

func addrFlag(name, value string) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(value)
	if err != nil {
		return a, fmt.Errorf("--%s: %w", name, err)
	}
	return a, nil
}

func newLogger(level, format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: debug, info, warn or error", level)
	}
	o.Level = l
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, o)), nil
	}
	return nil, fmt.Errorf("--log-format %q: text or json", format)
}
