// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestMatrix sends every kind of traffic, on every way through the overlay, with
// every setting of the offloads, on a lab of every mode and addressing. Of each it
// holds the payload to what was sent, every packet on the wire to what the kernel's
// tunnels would send, and every counter to the number of packets. The lab is
// TestOverlay's, with one thing more: h2-c2 is a router to a namespace behind it.
//
//	h1-c1  h1-c2             h2-c1  h2-c2 ─── behind
//	   .2     .3                .2     .3        .200
//	   └ br245 ┘                └ br246 ┘
//	      h1 ──────── wire ──────── h2
func TestMatrix(t *testing.T) {
	for _, s := range slices.Concat(sites, ipipSites) {
		t.Run(s.String(), func(t *testing.T) { s.run(t) })
	}
}

// site is a lab that the matrix is run on.
type site struct {
	backend      topology.Encap
	inner, outer lab.Families
	dataplanes   [2]node.Dataplane // of h1 and h2
}

var (
	bothEBPF    = [2]node.Dataplane{node.EBPF, node.EBPF}
	bothNetlink = [2]node.Dataplane{node.Netlink, node.Netlink}
	mixed       = [2]node.Dataplane{node.EBPF, node.Netlink}
)

var sites = []site{
	{topology.EncapVXLAN, lab.V4, lab.V4, bothEBPF},
	{topology.EncapIPIP, lab.V4, lab.V4, bothEBPF},
	{topology.EncapUDP, lab.V4, lab.V4, bothEBPF},
	{topology.EncapNone, lab.V4, lab.V4, bothEBPF},
	{topology.EncapIPIP, lab.V6, lab.V6, bothEBPF},
	{topology.EncapNone, lab.V6, lab.V6, bothEBPF},
	{topology.EncapIPIP, lab.V6, lab.V4, bothEBPF},
	{topology.EncapIPIP, lab.V4, lab.V6, bothEBPF},
	{topology.EncapVXLAN, lab.V6, lab.V6, bothEBPF},
	{topology.EncapVXLAN, lab.Dual, lab.Dual, bothEBPF},
	{topology.EncapVXLAN, lab.V4, lab.V4, bothNetlink},
	{topology.EncapVXLAN, lab.V6, lab.V6, bothNetlink},
	{topology.EncapNone, lab.V4, lab.V4, bothNetlink},
	{topology.EncapNone, lab.V6, lab.V6, bothNetlink},
	{topology.EncapVXLAN, lab.V4, lab.V4, mixed},
	{topology.EncapVXLAN, lab.V6, lab.V6, mixed},
}

func (s site) String() string {
	who := string(s.dataplanes[0])
	if s.dataplanes[1] != s.dataplanes[0] {
		who += "+" + string(s.dataplanes[1])
	}
	return fmt.Sprintf("%s/%s %s in %s", who, s.backend, s.inner, s.outer)
}

func (s site) run(t *testing.T) {
	m := s.up(t)
	t.Run("headers", m.testHeaders)
	if s.dataplanes == bothEBPF && (s.inner == lab.V6 || s.outer == lab.V6) { // else TestOverlay has it
		t.Run("stream", func(t *testing.T) { testStream(t, m.Lab) })
	}
	m.setOffloads(t, offload{off: []devices{uplinks}}) // what is brought again has its checksums
	t.Run("ECN out of the tunnel", m.testDecapsulatedECN)
	t.Run("not routed", m.testNotRouted)
	if s.dataplanes == bothEBPF && s.backend != topology.EncapNone && (s.inner == lab.V6 || s.outer == lab.V6) {
		t.Run("outer fragments", m.testOuterFragments)
	}
	for _, o := range offloads {
		t.Run(o.name, func(t *testing.T) {
			m.setOffloads(t, o)
			for _, f := range s.inner.Each() {
				for _, w := range ways {
					for _, k := range visibleKinds(t) {
						t.Run(fmt.Sprintf("%s %s: %s", f, w.name, k.name), func(t *testing.T) { m.row(t, w, f, k, o) })
					}
				}
			}
		})
	}
}

// matrix is a site that is up.
type matrix struct {
	site
	*lab.Lab
	behind   *lab.Container // nested in h2's second
	captures map[iface]*lab.Capture
	macs     map[iface]string
	maps     [2]*maps.Set // of h1 and h2, where programs count
}

// iface is an interface.
type iface struct {
	ns   lab.Namespace
	name string
}

func (s site) up(t *testing.T) *matrix {
	t.Helper()
	l := up(t, func(o *lab.Options) { o.Backend, o.Inner, o.Outer = s.backend, s.inner, s.outer })
	for i, h := range l.Hosts {
		noError(t, h.StartDaemon(t.Context(), "--dataplane", string(s.dataplanes[i]), fmt.Sprintf("--udp6-zero-checksum=%t", s.takesZeroChecksum(i))))
	}
	m := &matrix{site: s, Lab: l, captures: map[iface]*lab.Capture{}, macs: map[iface]string{}}
	var err error
	m.behind, err = l.Hosts[1].Nest(l.Hosts[1].Containers[1])
	noError(t, err)
	m.markECN(t)
	for _, h := range l.Hosts {
		m.learn(t, h)
		waitPeers(t, h, len(s.inner.Each()))
	}
	for i, h := range l.Hosts {
		if s.dataplanes[i] == node.EBPF {
			m.maps[i], err = h.Maps() // once: that takes longer than a packet
			noError(t, err)
			t.Cleanup(func() { _ = m.maps[i].Close() }) // only read
		}
	}
	for _, p := range m.ifaces() {
		m.captures[p] = capture(t, p.ns, p.name)
		mac := macIn(t, p.ns, p.name)
		if len(mac) != 6 {
			mac = make(net.HardwareAddr, 6) // a tunnel's device has none
		}
		m.macs[p] = mac.String()
	}
	for _, h := range l.Hosts {
		m.macs[iface{h.NS, h.Bridge}] = mac(t, h, h.Bridge).String()
	}
	return m
}

// takesZeroChecksum says whether a host takes VXLAN over IPv6 without a UDP checksum.
// The second one of a mixed site stands for flanneld's, which do not.
func (s site) takesZeroChecksum(host int) bool { return s.dataplanes != mixed || host == 0 }

// mode is that of a host.
func (s site) mode(host int) mode { return mode{s.dataplanes[host], s.backend} }

// device is a host's overlay device of a family.
func (s site) device(host int, f lab.Families) string {
	ipip := s.backend == topology.EncapIPIP && s.dataplanes[host] == node.Netlink
	switch {
	case f == lab.V6 && s.backend == topology.EncapVXLAN:
		return "bpfnet0-v6"
	case ipip && (lab.Options{Outer: s.outer}).OuterOf(f) == lab.V6:
		return "bpfnet-ip6"
	case ipip && f == lab.V6:
		return "bpfnet-sit"
	}
	return s.mode(host).device()
}

// ifaces are all interfaces that packets are looked at on.
func (m *matrix) ifaces() (all []iface) {
	for i, h := range m.Hosts {
		all = append(all, iface{h.NS, lab.Uplink})
		for _, c := range h.Containers {
			all = append(all, iface{h.NS, c.Veth}, iface{c.NS, "eth0"})
		}
		for _, f := range m.inner.Each() {
			if i := (iface{h.NS, m.device(i, f)}); i.name != "" && !slices.Contains(all, i) {
				all = append(all, i)
			}
		}
		if m.backend == topology.EncapUDP && m.dataplanes[i] == node.EBPF {
			all = append(all, iface{h.NS, "bpfnet0p"})
		}
	}
	return append(all, iface{m.behind.NS, "eth0"}, iface{m.Hosts[1].Containers[1].NS, "eth1"})
}

// learn is learn of all families that containers have, with the nested one.
func (m *matrix) learn(t *testing.T, h *lab.Host) {
	t.Helper()
	all := slices.Clone(h.Containers)
	if h == m.Hosts[1] {
		all = append(all, m.behind)
	}
	for _, c := range all {
		for _, f := range m.inner.Each() {
			ping(t, c.NS, h.GatewayOf(f), lab.PingOptions{Count: 1})
			ping(t, h.NS, c.In(f), lab.PingOptions{Count: 1})
		}
	}
	waitEndpoints(t, h, len(all)*len(m.inner.Each()))
}

// markECN has all TCP of the lab's containers be of ECT(0) (RFC 3168, 6.1).
func (m *matrix) markECN(t *testing.T) {
	t.Helper()
	all := []lab.Namespace{m.behind.NS}
	for _, h := range m.Hosts {
		all = append(all, h.NS)
		for _, c := range h.Containers {
			all = append(all, c.NS)
		}
	}
	for _, n := range all {
		run(t, n, "sysctl", "-q", "-w", "net.ipv4.tcp_ecn=1")
	}
}
