// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/test/lab"
)

// Mode is one way for packets to get from one host to the other.
type Mode struct {
	Name  string // as --modes and the JSON have it
	Title string

	backend   topology.Encap // of the network
	dataplane string         // of the daemons; "": there are none
	// connect makes the way between the ends where no daemon does.
	connect func(*site, context.Context) error
	flags   []string     // of the daemons, more of them
	bare    bool         // no containers: the hosts themselves talk
	ttl     int          // that packets sent with 64 arrive with
	carrier carrier      // who carries the packets
	needs   func() error // tells what the machine lacks for it
	// resident: packets are carried by the daemon's process; elsewhere the daemons
	// are stopped before anything is measured, to have the machine quiet.
	resident bool
}

// Names of modes that others are compared with.
const (
	hostMode    = "host"
	netlinkMode = "netlink-vxlan"
)

const (
	dataplaneEBPF    = "ebpf"
	dataplaneNetlink = "netlink"
)

var modes = []Mode{
	{
		Name: hostMode, Title: "host to host, no containers", backend: topology.EncapNone, bare: true,
		connect: func(*site, context.Context) error { return nil },
		ttl:     64, carrier: device(lab.Uplink), needs: nothing,
	},
	{
		Name: "routing", Title: "containers, kernel routing, no tunnel", backend: topology.EncapNone,
		connect: (*site).route,
		ttl:     62, carrier: forwarding, needs: nothing,
	},
	{
		Name: "redirect", Title: "containers, bare redirects, no tunnel", backend: topology.EncapNone,
		connect: (*site).redirect,
		ttl:     64, carrier: device(lab.Uplink), needs: tcx,
	},
	{
		Name: netlinkMode, Title: "VXLAN by the kernel", backend: topology.EncapVXLAN, dataplane: dataplaneNetlink,
		ttl: 62, carrier: device("bpfnet0"), needs: linkKind(&netlink.Vxlan{VxlanId: 1, Port: 4789}),
	},
	{
		Name: "netlink-ipip", Title: "IPIP by the kernel", backend: topology.EncapIPIP, dataplane: dataplaneNetlink,
		ttl: 62, carrier: device("bpfnet-ipip"), needs: linkKind(&netlink.Iptun{}),
	},
	{
		Name: "netlink-udp", Title: "flannel's UDP by a TUN device", backend: topology.EncapUDP, dataplane: dataplaneNetlink,
		ttl: 60, carrier: device("bpfnet-tun"), needs: file("/dev/net/tun"), resident: true,
	},
	{
		Name: "netlink-host-gw", Title: "host-gw by the kernel", backend: topology.EncapNone, dataplane: dataplaneNetlink,
		ttl: 62, carrier: forwarding, needs: nothing,
	},
	{
		Name: "ebpf-vxlan", Title: "VXLAN by eBPF", backend: topology.EncapVXLAN, dataplane: dataplaneEBPF,
		ttl: 62, carrier: programs, needs: loader.Probe,
	},
	{
		Name: "ebpf-ipip", Title: "IPIP by eBPF", backend: topology.EncapIPIP, dataplane: dataplaneEBPF,
		ttl: 62, carrier: programs, needs: loader.Probe,
	},
	{
		Name: "ebpf-vxlan-xdp", Title: "VXLAN by eBPF, received at XDP", backend: topology.EncapVXLAN, dataplane: dataplaneEBPF,
		flags: []string{"--xdp", "native"}, ttl: 62, carrier: programs, needs: loader.Probe,
	},
	{
		Name: "ebpf-ipip-xdp", Title: "IPIP by eBPF, received at XDP", backend: topology.EncapIPIP, dataplane: dataplaneEBPF,
		flags: []string{"--xdp", "native"}, ttl: 62, carrier: programs, needs: loader.Probe,
	},
	{
		Name: "ebpf-udp", Title: "flannel's UDP by eBPF", backend: topology.EncapUDP, dataplane: dataplaneEBPF,
		ttl: 62, carrier: programs, needs: loader.Probe,
	},
	{
		Name: "ebpf-host-gw", Title: "host-gw by eBPF", backend: topology.EncapNone, dataplane: dataplaneEBPF,
		ttl: 62, carrier: programs, needs: loader.Probe,
	},
}

// Modes are all modes.
func Modes() []Mode { return modes }

// ModesNamed are the modes of those names, in the order of Modes; no name
// stands for all.
func ModesNamed(names []string) ([]Mode, error) {
	return named("mode", modes, func(m Mode) string { return m.Name }, names)
}

// named picks from all those with the names given.
func named[T any](what string, all []T, name func(T) string, names []string) ([]T, error) {
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	var picked []T
	for _, x := range all {
		known = append(known, name(x))
		if slices.Contains(names, name(x)) {
			picked = append(picked, x)
		}
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("unknown %s %q: use some of %s", what, n, strings.Join(known, ", "))
		}
	}
	return picked, nil
}

func nothing() error { return nil }

// linkKind tells whether the kernel has links of a kind, by making one in a network
// namespace that ends with it.
func linkKind(l netlink.Link) func() error {
	return func() error {
		err := inNewNamespace(func() error {
			l.Attrs().Name = "probe0"
			return netlink.LinkAdd(l)
		})
		if err != nil {
			return fmt.Errorf("this kernel makes no %s device: %w", l.Type(), err)
		}
		return nil
	}
}

// inNewNamespace runs f in a network namespace that ends with it.
func inNewNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and the namespace with it
		ns, err := netns.New()
		if err != nil {
			done <- fmt.Errorf("create network namespace: %w", err)
			return
		}
		defer ns.Close() //nolint:errcheck // read only
		done <- f()
	}()
	return <-done
}

func file(path string) func() error {
	return func() error {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("this machine has no %s", path)
		}
		return nil
	}
}
