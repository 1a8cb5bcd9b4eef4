// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/test/lab"
)

// xdpFlags are what daemons are started with for a mode. Generic mode spreads
// IPIP over the CPUs; native mode does not on veth, which the daemon says.
func xdpFlags(m xdp.Mode) []string {
	flags := []string{"--xdp", string(m)}
	if m == xdp.Generic {
		flags = append(flags, "--xdp-cpus", "0-1")
	}
	return flags
}

// TestXDP has from_wire on the uplinks of each site of one family with a tunnel (topology as TestOverlay). What generic
// mode does does not depend on whether one family is in the other.
func TestXDP(t *testing.T) {
	for _, m := range []xdp.Mode{xdp.Native, xdp.Generic} {
		t.Run(string(m), func(t *testing.T) {
			for _, s := range tunnelled(sites) {
				if s.dataplanes != bothEBPF || s.inner == lab.Dual || m == xdp.Generic && s.inner != s.outer {
					continue
				}
				t.Run(s.String(), func(t *testing.T) { testXDP(t, s, m) })
			}
		})
	}
}

func testXDP(t *testing.T, s site, m xdp.Mode) {
	l := s.upXDP(t, m, lab.Defaults().MTU)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *lab.Lab, xdp.Mode)
	}{
		{"status", testXDPStatus},
		{"paths", testXDPPaths},
		{"forged", testXDPForged},
		{"mark", testXDPMark},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, l, m) })
	}
	if s.inner == lab.V4 && s.outer == lab.V4 {
		t.Run("fragments", func(t *testing.T) { testFragmentsOutOfOrder(t, l) })
		t.Run("ecn", func(t *testing.T) { testECN(t, l) })
	}
	t.Run("stream", func(t *testing.T) {
		c1, c2 := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
		transfer(t, c1.NS, c2.NS, c2.In(s.inner), 16<<20)
		transfer(t, c2.NS, c1.NS, c1.In(s.inner), 16<<20)
		transfer(t, l.Hosts[1].NS, c1.NS, c1.In(s.inner), 4<<20)
	})
}

// upXDP is the site, its daemons started with XDP, all containers known.
func (s site) upXDP(t *testing.T, m xdp.Mode, mtu int) *lab.Lab {
	t.Helper()
	l := up(t, func(o *lab.Options) { o.Backend, o.Inner, o.Outer, o.MTU = s.backend, s.inner, s.outer, mtu })
	startDaemons(t, l, xdpFlags(m)...)
	for _, h := range l.Hosts {
		for _, c := range h.Containers {
			ping(t, c.NS, h.GatewayOf(s.inner), lab.PingOptions{Count: 1})
		}
		waitEndpoints(t, h, len(h.Containers))
	}
	return l
}

// TestXDPJumbo has packets in several buffers: larger than a page.
func TestXDPJumbo(t *testing.T) {
	for _, s := range []site{
		{topology.EncapVXLAN, lab.V6, lab.V6, bothEBPF},
		{topology.EncapIPIP, lab.V6, lab.V4, bothEBPF},
	} {
		t.Run(s.String(), func(t *testing.T) {
			l := s.upXDP(t, xdp.Native, 9000)
			c1, c2 := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
			whole := l.Options.ContainerMTU() - ipHeader(s.inner) - 8
			expectCarried(t, l.Hosts[1], 3, wireCounters(l, xdp.Native, networkDelivered), func() {
				sendDatagrams(t, c1.NS, c2.NS, c2.In(s.inner), whole, whole-1, 4096)
			})
			transfer(t, c1.NS, c2.NS, c2.In(s.inner), 16<<20)
			transfer(t, c2.NS, c1.NS, c1.In(s.inner), 16<<20)
		})
	}
}

// TestXDPOuterChecksum: the kernel's vxlan device over IPv6 sends UDP checksums. Where the inner packet's is the NIC's to
// make, the outer one is right already, and tells from_wire so; where the inner one is made, the outer one is the NIC's,
// and on a veth still to be made: that packet is left to tc.
func TestXDPOuterChecksum(t *testing.T) {
	l := up(t, func(o *lab.Options) { o.Inner, o.Outer = lab.V6, lab.V6 })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	noError(t, h1.StartDaemon(t.Context(), "--dataplane", "netlink"))
	noError(t, h2.StartDaemon(t.Context(), xdpFlags(xdp.Native)...))
	waitPeers(t, h1, 1)
	waitPeers(t, h2, 1)
	from, to := h1.Containers[0], h2.Containers[0]
	ping(t, h2.NS, to.Addr6, lab.PingOptions{Count: 1})
	ping(t, from.NS, to.Addr6, lab.PingOptions{Count: 1})
	waitEndpoints(t, h2, 1)
	const count = 5
	expectCarried(t, h2, count, []string{"from_wire pass/checked", networkDelivered}, func() {
		ping(t, from.NS, to.Addr6, lab.PingOptions{Count: count, Interval: time.Millisecond})
	})
	expectCarried(t, h2, 1, []string{"from_wire forward/decapsulated", networkDelivered}, func() {
		sendDatagrams(t, from.NS, to.NS, to.Addr6, 1000)
	})
	transfer(t, from.NS, to.NS, to.Addr6, 16<<20)
	transfer(t, to.NS, from.NS, from.Addr6, 16<<20)
}

// wireCounters are those that from_wire and from_network move for a tunnel
// packet, given what from_network does with it in any case.
func wireCounters(l *lab.Lab, m xdp.Mode, network ...string) []string {
	switch {
	case m == xdp.Native:
		return append(network, "from_wire forward/decapsulated")
	case l.Options.Backend == topology.EncapIPIP:
		return append(network, "from_wire forward/spread")
	}
	return append(network, "from_wire pass/checked")
}

// carried is what a host's programs that receive have done with packets of the overlay.
func carried(c lab.Counters) lab.Counters {
	of := lab.Counters{}
	for k, n := range c {
		ours := k.Verdict != "pass" || k.Reason == "checked"
		if ours && (k.Program == "from_wire" || k.Program == "from_network" || k.Program == "from_overlay") {
			of[k] = n
		}
	}
	return of
}

// expectCarried fails the test unless f has a host's receiving programs count exactly these, count times each.
func expectCarried(t *testing.T, h *lab.Host, count int, want []string, f func()) {
	t.Helper()
	before := counters(t, h)
	f()
	exact := lab.Counters{}
	for _, k := range want {
		exact[counterKey(k)] += uint64(count)
	}
	equal(t, "counters of "+h.Name, exact, carried(counters(t, h).Since(before)))
}

func testXDPStatus(t *testing.T, l *lab.Lab, m xdp.Mode) {
	for _, h := range l.Hosts {
		s, err := h.DaemonStatus(t.Context())
		noError(t, err)
		want := xdp.Choice{Mode: m, Why: "as told"}
		if m == xdp.Generic && l.Options.Backend == topology.EncapIPIP {
			want.CPUs = []uint16{0, 1}
		}
		equal(t, "status", &want, s.XDP)
		if out := bpfnet(t, h, "status"); !strings.Contains(out, want.String()) {
			t.Errorf("%q is not in what status prints:\n%s", want, out)
		}
		waitProblems(t, h)
	}
}

// testXDPPaths sends pings and datagrams of all sizes everywhere, while somebody
// captures on the uplink and while nobody does.
func testXDPPaths(t *testing.T, l *lab.Lab, m xdp.Mode) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	c1, c2, f := h1.Containers[0], h2.Containers[0], l.Options.Inner
	mtu, headers := l.Options.ContainerMTU(), ipHeader(f)+8
	sizes := []int{1, 100, mtu - headers, mtu - headers + 1, 5000, 30000}
	packets := 0
	for _, size := range sizes {
		packets += fragmentCountOf(f, size, mtu)
	}
	for _, path := range []struct {
		name string
		from lab.Namespace
		to   lab.Namespace
		addr netip.Addr
		ttl  int
		want []string
	}{
		{"container to container", c1.NS, c2.NS, c2.In(f), 62, []string{networkDelivered}},
		{"host to container", h1.NS, c2.NS, c2.In(f), 63, []string{networkDelivered}},
		{"container to host", c1.NS, h2.NS, h2.GatewayOf(f), 63, []string{networkToHost, overlayChecked}},
	} {
		for _, captured := range []bool{false, true} {
			name := path.name
			if captured {
				name += ", captured"
			}
			t.Run(name, func(t *testing.T) {
				if captured {
					capture(t, h2.NS, lab.Uplink)
				}
				want := wireCounters(l, m, path.want...)
				const count = 5
				expectCarried(t, h2, count, want, func() {
					o := lab.PingOptions{Count: count, Interval: time.Millisecond}
					if ttl := ping(t, path.from, path.addr, o); ttl != path.ttl {
						t.Errorf("TTL %d, want %d", ttl, path.ttl)
					}
				})
				expectCarried(t, h2, packets, want, func() { sendDatagrams(t, path.from, path.to, path.addr, sizes...) })
			})
		}
	}
}

// testXDPForged: forged tunnel packets are dropped by from_wire, before the kernel makes anything of them.
func testXDPForged(t *testing.T, l *lab.Lab, m xdp.Mode) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	inner, outer := l.Options.Inner, l.Options.OuterOf(l.Options.Inner)
	to, remote := h1.Containers[0].In(inner), h2.Containers[0].In(inner)
	stranger, elsewhere := netip.MustParseAddr("192.168.32.99"), netip.MustParseAddr("172.247.0.9")
	if outer == lab.V6 {
		stranger = netip.MustParseAddr("fd00:192:168:32::99")
	}
	if inner == lab.V6 {
		elsewhere = netip.MustParseAddr("fd00:172:244:247::9")
	}
	const payload = 30
	for _, test := range []struct {
		reason     string
		src, outer netip.Addr
	}{
		{"unknown_host", remote, stranger},
		{"spoofed_source", elsewhere, h2.Node(outer)},
	} {
		t.Run(test.reason, func(t *testing.T) {
			packet := tunnelPacketOf(t, l, h2, h1, test.outer, datagramOf(test.src, to, randomBytes(payload)))
			uplink, container := capture(t, h1.NS, lab.Uplink), capture(t, h1.Containers[0].NS, "eth0")
			events(t, h1)
			dropped := "from_wire drop/" + test.reason
			expectCarried(t, h1, 1, []string{dropped}, func() {
				before := counters(t, h1)[counterKey(dropped)]
				sendToHost(t, l, h1, packet)
				until(t, "it is counted", func() (bool, error) { return counters(t, h1)[counterKey(dropped)] > before, nil })
			})
			for _, c := range []*lab.Capture{uplink, container} {
				for _, p := range stop(t, c) {
					if d := lab.Decode(p); !p.Outgoing && slices.ContainsFunc(d.IP, func(ip lab.IP) bool { return ip.Src == test.src && ip.Dst == to }) {
						if m == xdp.Generic && c == uplink {
							continue // packet sockets come before from_wire there
						}
						t.Errorf("it went on: %q", describe(p))
					}
				}
			}
			got := events(t, h1)
			if len(got) != 1 || got[0].Program != "from_wire" || got[0].Reason != test.reason || got[0].OuterSource != test.outer ||
				got[0].Source != test.src || got[0].Length != len(packet)+14 {
				t.Errorf("events: %+v", got)
			}
		})
	}
}

// testXDPMark sends from the wire what looks as if from_wire had made it.
func testXDPMark(t *testing.T, l *lab.Lab, m xdp.Mode) {
	if m != xdp.Native {
		return // from_wire makes nothing
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	uplink := mac(t, h1, lab.Uplink)
	mark := xdp.Mark(topology.MAC(uplink))
	f := l.Options.Inner
	inner := datagramOf(h2.Containers[0].In(f), h1.Containers[0].In(f), randomBytes(30))
	const dropped = "from_wire drop/wire_mac"
	expectCarried(t, h1, 1, []string{dropped}, func() {
		send(t, l.Wire(), h1.Name, ethernet(net.HardwareAddr(mark[:]), uplink, inner))
		until(t, "it is counted", func() (bool, error) { return counters(t, h1)[counterKey(dropped)] > 0, nil })
	})
}

// TestXDPSwitch restarts daemons with other --xdp, and kills them, under two pings
// of 1,000/s that cross (topology as TestRestart).
func TestXDPSwitch(t *testing.T) {
	forEach(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapIPIP), nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		for _, test := range []struct {
			name  string
			flags []string
			mode  xdp.Mode
			same  bool // the link is
			queue bool // of a CPU comes or goes: what stands in it may be overtaken
		}{
			{"native", []string{"--xdp=native"}, xdp.Native, false, false},
			{"native again", []string{"--xdp=native"}, xdp.Native, true, false},
			{"other maps", []string{"--xdp=native", "--max-hosts=1024"}, xdp.Native, true, false},
			{"generic", []string{"--xdp=generic"}, xdp.Generic, false, false},
			{"generic, spread", []string{"--xdp=generic", "--xdp-cpus=0-1"}, xdp.Generic, true, true},
			{"auto", []string{"--xdp=auto"}, xdp.Off, false, true}, // on veth
		} {
			t.Run(test.name, func(t *testing.T) {
				there, back := crossing(t, h1, h2)
				before := pinsOf(t, h2)
				for _, h := range []*lab.Host{h2, h1} {
					noError(t, h.KillDaemon())
				}
				for _, h := range l.Hosts {
					noError(t, h.StartDaemon(t.Context(), test.flags...))
				}
				for _, h := range l.Hosts {
					waitPeers(t, h, 1)
					waitXDP(t, h, test.mode)
				}
				there.more(50)
				back.more(50)
				after := pinsOf(t, h2)
				if test.same && (after.wireLink() == 0 || after.wireLink() != before.wireLink()) {
					t.Errorf("link of from_wire was %d, is %d", before.wireLink(), after.wireLink())
				}
				for _, f := range []*flow{there, back} {
					if test.queue {
						f.lossless()
					} else {
						f.intact()
					}
				}
			})
		}
	})
}

// waitXDP waits until a daemon says that XDP is in a mode, and looks whether it is.
func waitXDP(t *testing.T, h *lab.Host, m xdp.Mode) {
	t.Helper()
	until(t, "XDP of "+h.Name+" is "+string(m), func() (bool, error) {
		s, err := h.DaemonStatus(t.Context())
		return err == nil && s.Ready && s.XDP != nil && s.XDP.Mode == m, err
	})
	on := linkOf(t, h, lab.Uplink).Attrs().Xdp
	if attached := on != nil && on.Attached; attached != (m != xdp.Off) {
		t.Errorf("%s: a program is attached: %t", h.Name, attached)
	}
}

// wireLink is the link of from_wire; 0 where there is none.
func (d datapath) wireLink() link.ID {
	for name, id := range d.Links {
		if strings.HasPrefix(name, "from_wire-") {
			return id
		}
	}
	return 0
}

// TestXDPForeign: somebody else's XDP program on the uplink stays; packets go by tc, and the daemon says so.
func TestXDPForeign(t *testing.T) {
	l := up(t, nil)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	noError(t, err)
	t.Cleanup(func() { noError(t, pass.Close()) })
	uplink := ifindex(t, h1, lab.Uplink)
	var theirs link.Link
	noError(t, h1.NS.Do(func() error {
		theirs, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: uplink, Flags: link.XDPGenericMode})
		return err
	}))
	startDaemons(t, l, "--xdp=native")
	until(t, "h1 says why it has no XDP", func() (bool, error) {
		s, e := h1.DaemonStatus(t.Context())
		return e == nil && s.XDP != nil && s.XDP.Mode == xdp.Off && strings.Contains(s.XDP.Why, "another XDP program") &&
			slices.ContainsFunc(s.Problems, func(p node.Problem) bool { return p.Source == "xdp attach" }), e
	})
	waitXDP(t, h2, xdp.Native)
	info, err := pass.Info()
	noError(t, err)
	id, _ := info.ID()
	if on := linkOf(t, h1, lab.Uplink).Attrs().Xdp; on == nil || on.ProgId != uint32(id) {
		t.Errorf("their program %d is not what is attached: %+v", id, on)
	}
	c1, c2 := h1.Containers[0], h2.Containers[0]
	transfer(t, c1.NS, c2.NS, c2.Addr, 4<<20)
	transfer(t, c2.NS, c1.NS, c1.Addr, 4<<20)
	noError(t, theirs.Close())
}

// TestXDPCleanup leaves nothing of it.
func TestXDPCleanup(t *testing.T) {
	l := up(t, mode{node.EBPF, topology.EncapIPIP}.in(nil))
	startDaemons(t, l, "--xdp=generic", "--xdp-cpus=0-1")
	h1 := l.Hosts[0]
	waitXDP(t, h1, xdp.Generic)
	noError(t, h1.StopDaemon(t.Context()))
	bpfnet(t, h1, "cleanup")
	if on := linkOf(t, h1, lab.Uplink).Attrs().Xdp; on != nil && on.Attached {
		t.Errorf("still attached: %+v", on)
	}
	if left := pinsOf(t, h1); len(left.Links) > 0 || len(left.Maps) > 0 {
		t.Errorf("pins are left: %+v", left)
	}
}
