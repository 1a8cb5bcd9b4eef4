// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestMixed has bpfnet on h2 join a network of flanneld on h1, and flanneld on
// h3 join both: either finds the other there, and sees it come (SCENARIOS B5).
func TestMixed(t *testing.T) {
	matrix(t, append(modes(), direct, acrossRouter), func(t *testing.T, m mode, dp dataplane) {
		c := up(t, m, dp, 3)
		h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
		h1.flanneld.start(t)
		firstPing(t, h2, h2.bpfnet, h1)
		firstPing(t, h3, h3.flanneld, h2)
		for _, other := range []*node{h1, h3} {
			t.Run(h2.Name+" and "+other.Name, func(t *testing.T) {
				for _, pair := range [][2]*node{{h2, other}, {other, h2}} {
					from, to := pair[0], pair[1]
					testPaths(t, c, copies(m, dp, h2)+copies(m, dp, other), from, to)
					testBulk(t, from, to)
					testWire(t, c, m, copies(m, dp, from), from, to)
				}
			})
		}
	})
}

// firstPing starts an agent on a node, and waits until it reaches another and
// that reaches it.
func firstPing(t *testing.T, n *node, a agent, other *node) {
	t.Helper()
	start := time.Now()
	a.start(t)
	meet(t, n.container().NS, other.container().Addr)
	meet(t, other.container().NS, n.container().Addr)
	t.Logf("%s: first pings answered %v after the start of its %T", n.Name, time.Since(start).Round(time.Millisecond), a)
}

// copies is how many processes copy a node's packets, which takes a hop off
// them: flanneld in udp mode, and ours in the netlink dataplane's.
func copies(m mode, dp dataplane, n *node) int {
	if m.backend == topology.EncapUDP && (n.flanneld.process != nil || dp.name == kernels.name) {
		return 1
	}
	return 0
}

// testPaths pings along every path between two nodes, with packets of the MTU.
func testPaths(t *testing.T, c *cluster, copies int, from, to *node) {
	t.Helper()
	for _, path := range []struct {
		name string
		from lab.Namespace
		to   netip.Addr
		hops int // routers that the reply passes
	}{
		{"container to container", from.container().NS, to.container().Addr, 2},
		{"container to bridge", from.container().NS, to.Gateway(), 1},
		{"container to node", from.container().NS, to.Addr, 1},
		{"host to container", from.NS, to.container().Addr, 1},
	} {
		const ipAndICMP = 28 // bytes of headers
		r, err := path.from.Ping(t.Context(), path.to, lab.PingOptions{
			Count: 5, Interval: time.Millisecond, DF: true, Size: c.Options.ContainerMTU() - ipAndICMP})
		noError(t, err)
		equal(t, path.name+": TTLs", []int{64 - path.hops - copies}, r.TTLs())
		r.Replies = nil
		equal(t, path.name, lab.PingResult{Sent: 5, Received: 5}, r)
	}
}

// testBulk sends a TCP stream, and datagrams that the container's kernel has to cut.
func testBulk(t *testing.T, from, to *node) {
	t.Helper()
	src, dst := from.container(), to.container()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if err := lab.TransferTCP(ctx, src.NS, dst.NS, dst.Addr, 8<<20); err != nil {
		t.Error(err)
	}
	for _, size := range []int{1000, 4000, 65507} {
		n, err := lab.TransferUDP(t.Context(), src.NS, dst.NS, dst.Addr, lab.UDPOptions{Count: 1, Size: size})
		if err != nil || n != 1 {
			t.Errorf("a datagram of %d bytes did not arrive: %v", size, err)
		}
	}
}

// wire is what has to be on the wire for a container's ping.
type wire struct {
	Bytes, OuterTTL, TTL int
	Ports                string // of UDP; VXLAN's source port is any
	VNI                  uint32
	MACs                 string // of the inner frame
}

// testWire pings once and looks at the request as it leaves the node.
func testWire(t *testing.T, c *cluster, m mode, copies int, from, to *node) {
	t.Helper()
	capture, err := from.NS.Capture(lab.Uplink)
	noError(t, err)
	r, err := from.container().NS.Ping(t.Context(), to.container().Addr, lab.PingOptions{Count: 1})
	if err != nil || r.Received != 1 {
		t.Errorf("ping: %v, %d replies", err, r.Received)
	}
	packets, err := capture.Stop()
	noError(t, err)
	want := wire{Bytes: 98 + m.wire().Overhead(from.Addr), OuterTTL: 64, TTL: 63 - copies}
	switch m.wire() {
	case topology.EncapVXLAN:
		want.Ports, want.VNI, want.MACs = "any>8472", 1, vtepMAC(t, c, from)+">"+vtepMAC(t, c, to)
	case topology.EncapUDP:
		want.Ports = "8285>8285"
	case topology.EncapIPIP, topology.EncapNone: // ipip's is inherited
		want.OuterTTL = want.TTL
	}
	for _, p := range packets {
		if p.Outgoing && isPing(p) {
			equal(t, "on the wire from "+from.Name, want, onWire(p))
			return
		}
	}
	t.Errorf("no ping on the wire from %s", from.Name)
}

func isPing(p lab.Packet) bool { return len(lab.Decode(p).ICMP) == 1 }

func onWire(p lab.Packet) wire {
	d := lab.Decode(p)
	w := wire{Bytes: p.Len, OuterTTL: int(d.IPv4[0].TTL), TTL: int(d.IPv4[len(d.IPv4)-1].TTL)}
	if len(d.UDP) > 0 {
		w.Ports = fmt.Sprintf("%d>%d", d.UDP[0].SrcPort, d.UDP[0].DstPort)
	}
	if len(d.VXLAN) > 0 {
		w.VNI = d.VXLAN[0].VNI
		w.MACs = d.Ethernet[1].SrcMAC.String() + ">" + d.Ethernet[1].DstMAC.String()
		w.Ports = fmt.Sprintf("any>%d", d.UDP[0].DstPort)
	}
	return w
}

// vtepMAC is what a node says in etcd.
func vtepMAC(t *testing.T, c *cluster, n *node) string {
	t.Helper()
	var r struct{ BackendData struct{ VtepMAC string } }
	noError(t, json.Unmarshal([]byte(c.lease(t, n).Value), &r))
	return r.BackendData.VtepMAC
}
