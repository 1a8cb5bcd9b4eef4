// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

var addresses = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// dual is a lab of both families.
func dual(backend topology.Encap, dp node.Dataplane) func(*lab.Options) {
	return func(o *lab.Options) {
		o.Backend, o.Dataplane, o.Inner, o.Outer = backend, dp, lab.Dual, lab.Dual
	}
}

// TestDualStack has containers of two hosts talk in both families, and the
// daemons tell of both.
func TestDualStack(t *testing.T) {
	for _, backend := range dualBackends {
		for _, dp := range []node.Dataplane{node.EBPF, node.Netlink} {
			t.Run(string(backend)+" "+string(dp), func(t *testing.T) {
				l := up(t, dual(backend, dp))
				noError(t, l.StartDaemons(t.Context()))
				for _, h := range l.Hosts {
					waitPeers(t, h, 2) // one in each family
					s, err := h.DaemonStatus(t.Context())
					noError(t, err)
					equal(t, "status", []any{h.Addr, h.Addr6, h.Subnet, h.Subnet6},
						[]any{s.Node, s.Node6, s.Subnet, s.Subnet6}, addresses)
					mtu := l.Options.MTU - backend.Overhead(h.Addr) // flanneld's is IPv4's
					if backend == topology.EncapIPIP {              // whose families share a device
						mtu = l.Options.ContainerMTU()
					}
					env, err := store.ReadSubnetEnv(h.SubnetFile())
					noError(t, err)
					equal(t, "subnet.env", store.SubnetEnv{
						Network: lab.Network, Subnet: h.Subnet, IPv6Network: lab.Network6, IPv6Subnet: h.Subnet6,
						MTU: mtu,
					}, env, addresses)
				}
				h1, h2 := l.Hosts[0], l.Hosts[1]
				talkInBoth(t, h1.Containers[0], h2.Containers[0])
				talkInBoth(t, h2.Containers[1], h1.Containers[1])
			})
		}
	}
}

// talkInBoth pings and sends a TCP stream in each family.
func talkInBoth(t *testing.T, from, to *lab.Container) {
	t.Helper()
	for _, f := range lab.Dual.Each() {
		if ttl := ping(t, from.NS, to.In(f), lab.PingOptions{Count: 3}); ttl != 62 {
			t.Errorf("%s: TTL %d, want 62", f, ttl)
		}
		transfer(t, from.NS, to.NS, to.In(f), 4<<20)
	}
}

// TestDualStackSwitch changes the dataplane there and back under pings of both families.
func TestDualStackSwitch(t *testing.T) {
	for _, backend := range slices.DeleteFunc(slices.Clone(dualBackends), func(b topology.Encap) bool { return b == topology.EncapNone }) {
		t.Run(string(backend), func(t *testing.T) { testDualStackSwitch(t, backend) })
	}
}

func testDualStackSwitch(t *testing.T, backend topology.Encap) {
	l := up(t, dual(backend, node.EBPF))
	noError(t, l.StartDaemons(t.Context()))
	h1, from, to := l.Hosts[0], l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	var pings []*lab.Pinger
	for _, f := range lab.Dual.Each() {
		ping(t, from.NS, to.In(f), lab.PingOptions{Count: 1})
		p, err := from.NS.StartPing(t.Context(), to.In(f), lab.PingOptions{Interval: time.Millisecond, Timeout: timeout})
		noError(t, err)
		pings = append(pings, p)
	}
	for _, dp := range []node.Dataplane{node.Netlink, node.EBPF} {
		noError(t, node.SetDataplane(t.Context(), h1.Dir, dp))
	}
	for i, p := range pings {
		r, err := p.Stop()
		noError(t, err)
		if r.Sent != r.Received {
			t.Errorf("%s: %d of %d pings were answered", lab.Dual.Each()[i], r.Received, r.Sent)
		}
	}
}

// TestZeroChecksumChanges restarts a node so that others learn, under pings, that it takes
// VXLAN over IPv6 with a UDP checksum alone, as when flanneld takes it over, and then without one again.
func TestZeroChecksumChanges(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Inner, o.Outer = lab.V6, lab.V6 })
	noError(t, l.StartDaemons(t.Context()))
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[0]
	wire := capture(t, h1.NS, lab.Uplink)
	ping(t, from.NS, to.Addr6, lab.PingOptions{Count: 1})
	p, err := from.NS.StartPing(t.Context(), to.Addr6, lab.PingOptions{Interval: time.Millisecond, Timeout: timeout})
	noError(t, err)
	for _, zero := range []bool{true, false, true} {
		noError(t, h2.StopDaemon(t.Context()))
		noError(t, h2.StartDaemon(t.Context(), fmt.Sprintf("--udp6-zero-checksum=%t", zero)))
		until(t, fmt.Sprintf("h1 sends no checksums: %t", zero), func() (as bool, err error) {
			packets, err := wire.Take()
			for _, q := range packets {
				if d := lab.Decode(q); q.Outgoing && len(d.VXLAN) > 0 {
					as = (d.UDP[0].Checksum == 0) == zero // the last one counts
				}
			}
			return as, err
		})
	}
	r, err := p.Stop()
	noError(t, err)
	if r.Sent != r.Received {
		t.Errorf("%d of %d pings were answered", r.Received, r.Sent)
	}
}

// TestFamilyComesAndGoes enables IPv6 in a network that runs, and takes it away
// again: IPv4 subnets stay, and of the family that goes nothing is left.
func TestFamilyComesAndGoes(t *testing.T) {
	l := up(t, dual(topology.EncapVXLAN, node.EBPF))
	c := etcd(t, l)
	both := l.NetworkConfig()
	four := `{"Network":"` + lab.Network.String() + `","Backend":{"Type":"vxlan"}}`
	noError(t, l.StartDaemons(t.Context()))
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	talkInBoth(t, from, to)
	for range 2 {
		put(t, c, "config", four)
		for _, h := range l.Hosts {
			until(t, "IPv6 is gone of "+h.Name, func() (bool, error) {
				s, err := h.DaemonStatus(t.Context())
				return err == nil && s.Ready && s.Subnet == h.Subnet && !s.Subnet6.IsValid() && len(s.Peers) == 1, err
			})
			until(t, "so is its route", func() (bool, error) {
				out, err := h.NS.Run(t.Context(), "ip", "-6", "route", "show", "proto", "98")
				return out == "", err
			})
		}
		ping(t, from.NS, to.Addr, lab.PingOptions{Count: 3})
		put(t, c, "config", both)
		for _, h := range l.Hosts {
			until(t, "IPv6 is back on "+h.Name, func() (bool, error) {
				s, err := h.DaemonStatus(t.Context())
				return err == nil && s.Ready && s.Subnet == h.Subnet && s.Subnet6.IsValid() && len(s.Peers) == 2, err
			})
		}
		ping(t, from.NS, to.Addr, lab.PingOptions{Count: 3}) // the IPv6 subnet may be another than the containers'
	}
}

// TestIPv6Renumbered changes a node's IPv6 address: its lease tells the other, and
// packets go to the new one; IPv4 notices nothing.
func TestIPv6Renumbered(t *testing.T) {
	l := up(t, dual(topology.EncapVXLAN, node.EBPF))
	noError(t, l.StartDaemons(t.Context()))
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[0]
	talkInBoth(t, from, to)
	four, err := from.NS.StartPing(t.Context(), to.Addr, lab.PingOptions{Interval: time.Millisecond, Timeout: timeout})
	noError(t, err)
	renumbered := netip.MustParseAddr("fd00:192:168:32::77")
	run(t, h2.NS, "ip", "addr", "add", renumbered.String()+"/64", "dev", lab.Uplink, "nodad")
	ping(t, from.NS, to.Addr6, lab.PingOptions{Count: 3}) // a second address is no reason to change the first
	run(t, h2.NS, "ip", "addr", "del", h2.Addr6.String()+"/64", "dev", lab.Uplink)
	until(t, "h1 knows the new address", func() (bool, error) {
		s, failed := h1.DaemonStatus(t.Context())
		return failed == nil && len(s.Peers) == 2 && s.Peers[1].Node == renumbered, failed
	})
	until(t, "h2 goes by it", func() (bool, error) { // its device is another then
		s, failed := h2.DaemonStatus(t.Context())
		return failed == nil && s.Node6 == renumbered, failed
	})
	talkInBoth(t, from, to)
	r, err := four.Stop()
	noError(t, err)
	if r.Sent != r.Received {
		t.Errorf("IPv4: %d of %d pings were answered", r.Received, r.Sent)
	}
}

// TestIPv6Alone has hosts and containers without an IPv4 address, etcd too.
func TestIPv6Alone(t *testing.T) {
	for _, dp := range []node.Dataplane{node.EBPF, node.Netlink} {
		t.Run(string(dp), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Dataplane, o.Inner, o.Outer = dp, lab.V6, lab.V6 })
			noError(t, l.StartDaemons(t.Context()))
			h1, h2 := l.Hosts[0], l.Hosts[1]
			waitPeers(t, h1, 1)
			waitPeers(t, h2, 1)
			s, err := h1.DaemonStatus(t.Context())
			noError(t, err)
			equal(t, "lease", fmt.Sprintf("0.0.0.0-0&%s-64", h1.Subnet6.Addr()), s.Lease)
			env, err := store.ReadSubnetEnv(h1.SubnetFile())
			noError(t, err)
			equal(t, "subnet.env", store.SubnetEnv{
				IPv6Network: lab.Network6, IPv6Subnet: h1.Subnet6, MTU: l.Options.MTU - l.Options.Overhead(),
			}, env, addresses)
			from, to := h1.Containers[0], h2.Containers[0]
			ping(t, from.NS, to.Addr6, lab.PingOptions{Count: 3})
			transfer(t, from.NS, to.NS, to.Addr6, 4<<20)
			transfer(t, to.NS, from.NS, from.Addr6, 4<<20)
		})
	}
}
