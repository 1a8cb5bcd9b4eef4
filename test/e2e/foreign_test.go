// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// testForeign: other people's tunnels between the same hosts are the kernel's,
// and work on untouched.
func testForeign(t *testing.T, l *lab.Lab) {
	for _, test := range []struct {
		name      string
		vni, port int
	}{
		{"VXLAN of another VNI", 2, 8472},
		{"VXLAN at another port", 1, 4789},
	} {
		t.Run(test.name, func(t *testing.T) { testForeignVXLAN(t, l, test.vni, test.port) })
	}
	t.Run("protocol 4", func(t *testing.T) { testForeignIPIP(t, l) })
	t.Run("UDP", func(t *testing.T) { testForeignUDP(t, l) })
	t.Run("the world outside", func(t *testing.T) { testOutside(t, l) })
}

// testOutside pings the underlay's router, which is outside of the overlay and
// routes back by the host.
func testOutside(t *testing.T, l *lab.Lab) {
	h1 := l.Hosts[0]
	run(t, l.Wire(), "ip", "route", "add", h1.Subnet.String(), "via", h1.Addr.String())
	defer run(t, l.Wire(), "ip", "route", "delete", h1.Subnet.String())
	expectCounters(t, l, 5, [2][]string{{containerNoRoute, networkNotOurs}}, func() {
		o := lab.PingOptions{Count: 5, Interval: time.Millisecond}
		if ttl := ping(t, h1.Containers[0].NS, netip.MustParseAddr("192.168.32.1"), o); ttl != 63 {
			t.Errorf("TTL %d, want 63", ttl)
		}
	})
}

// TestIPv6LeftAlone: containers of one host go on talking IPv6, which bpfnet does
// not carry, over their bridge (topology as TestOverlay).
func TestIPv6LeftAlone(t *testing.T) {
	l := serve(t, func(o *lab.Options) { o.IPv6 = true })
	h1 := l.Hosts[0]
	eth0, err := h1.Containers[1].NS.Run(t.Context(), "ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link")
	noError(t, err)
	_, rest, _ := strings.Cut(eth0, " inet6 ")
	addr, _, _ := strings.Cut(rest, "/")
	before := counters(t, h1)
	until(t, "IPv6 addresses are in use", func() (bool, error) { // not before the kernel has made sure that they are unique
		_, err := h1.Containers[0].NS.Run(t.Context(), "ping", "-6", "-c", "1", "-W", "1", addr+"%eth0")
		return err == nil, nil
	})
	if n := counters(t, h1).Since(before)[counterKey(containerProtocol)]; n < 2 {
		t.Errorf("from_container passed %d packets that are not IPv4, want request and reply at least", n)
	}
}

// testForeignVXLAN makes a VXLAN by the kernel alone beside ours and pings through it.
func testForeignVXLAN(t *testing.T, l *lab.Lab, vni, port int) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	for i, h := range []*lab.Host{h1, h2} {
		run(t, h.NS, "ip", "link", "add", "foreign", "type", "vxlan", "id", fmt.Sprint(vni), "dstport", fmt.Sprint(port),
			"local", h.Addr.String(), "remote", l.Hosts[1-i].Addr.String(), "dev", lab.Uplink)
		defer run(t, h.NS, "ip", "link", "delete", "foreign")
		run(t, h.NS, "ip", "address", "add", fmt.Sprintf("10.9.9.%d/24", i+1), "dev", "foreign")
		run(t, h.NS, "ip", "link", "set", "foreign", "up")
	}
	to := netip.MustParseAddr("10.9.9.2")
	ping(t, h1.NS, to, lab.PingOptions{Count: 1}) // by ARP through the tunnel
	expectCounters(t, l, 10, [2][]string{{networkNotOurs}, {networkNotOurs}}, func() {
		ping(t, h1.NS, to, lab.PingOptions{Count: 10, Interval: time.Millisecond})
	})
}

// testForeignIPIP sends protocol 4 that is not for our containers to a program
// that speaks it.
func testForeignIPIP(t *testing.T, l *lab.Lab) {
	if modeOf(l) == (mode{node.Netlink, topology.EncapIPIP}) {
		return // the kernel's device takes whatever is for its address
	}
	h1, h2 := l.Hosts[0], l.Hosts[1]
	src, dst := netip.MustParseAddr("10.9.9.2"), netip.MustParseAddr("10.9.9.1")
	if l.Options.Backend != topology.EncapIPIP {
		src, dst = h2.Containers[0].Addr, h1.Containers[0].Addr // protocol 4 is none of ours at all
	}
	in := listenPacket(t, h1.NS, "ip4:4", h1.Addr.String())
	inner := udpPacket(src, dst, 4000, 4000, randomBytes(40))
	packet := serialize(ipv4(h2.Addr, h1.Addr, layers.IPProtocolIPv4), gopacket.Payload(inner))
	want := [2][]string{{networkNotOurs}}
	if slices.Contains(switchable, topology.EncapIPIP) {
		want[1] = []string{networkNotOurs} // h1's ipip module answers that no device took it (tunnel4_rcv, net/ipv4/tunnel4.c)
	}
	expectCounters(t, l, 1, want, func() {
		sendToHost(t, l, h1, packet)
		receive(t, in, inner)
	})
}

// testForeignUDP: a tunnel's port belongs to whoever listens there where our
// backend is another.
func testForeignUDP(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	port := map[topology.Encap]uint16{topology.EncapVXLAN: 8285}[l.Options.Backend]
	if port == 0 {
		port = 8472
	}
	in := listenPacket(t, h1.NS, "udp4", netip.AddrPortFrom(h1.Addr, port).String())
	payload := randomBytes(100)
	expectCounters(t, l, 1, [2][]string{{networkNotOurs}}, func() {
		sendToHost(t, l, h1, udpPacket(h2.Addr, h1.Addr, 50000, port, payload))
		receive(t, in, payload)
	})
}

// listenPacket waits for an address that a socket before had: a process that another
// test has forked, and that has not become another program yet, has it open too.
func listenPacket(t *testing.T, n lab.Namespace, network, address string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	until(t, "nobody listens at "+address, func() (bool, error) {
		err := n.Do(func() (err error) {
			conn, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address)
			return err
		})
		if errors.Is(err, unix.EADDRINUSE) {
			return false, nil
		}
		return err == nil, err
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// receive fails the test unless what comes next is that, whole.
func receive(t *testing.T, in net.PacketConn, want []byte) {
	t.Helper()
	buf := make([]byte, 1<<16)
	noError(t, in.SetReadDeadline(time.Now().Add(timeout)))
	n, _, err := in.ReadFrom(buf)
	if err != nil {
		t.Fatalf("receive %d bytes: %v", len(want), err)
	}
	if !bytes.Equal(buf[:n], want) {
		t.Fatalf("sent %d bytes, received %d or others", len(want), n)
	}
}
