// SPDX-License-Identifier: Apache-2.0

//go:build root

package udptun_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/test/lab"
)

// What stands on the wire, byte for byte as flanneld's proxy sends it, and what
// comes out of the device: a hop less at each end.
func TestWire(t *testing.T) {
	r := newPair(t)
	wire, err := r.left.Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	device, err := r.right.Capture(udptun.DeviceName)
	if err != nil {
		t.Fatal(err)
	}
	// ECN CE and a DSCP in the inner header: ECT(0), and no DSCP, outside.
	out := r.run(r.left, "ping -c1 -W5 -Q 0xbb -s 100 "+r.right.container)
	if !strings.Contains(out, " ttl=62 ") {
		t.Errorf("the answer's TTL is not 62:\n%s", out)
	}
	sent, err := wire.WaitFor(r.ctx, func(p lab.Packet) bool { return p.Outgoing && len(lab.Decode(p).ICMP) == 1 })
	if err != nil {
		t.Fatal(err)
	}
	d := lab.Decode(sent)
	outer, inner, udp := d.IPv4[0], d.IPv4[1], d.UDP[0]
	if !udptun.WellFormed(udp.Payload) {
		t.Errorf("the datagram holds %x", udp.Payload)
	}
	if outer.TTL != 64 || inner.TTL != 63 {
		t.Errorf("TTL %d outside and %d inside, want 64 and 63", outer.TTL, inner.TTL)
	}
	if outer.TOS != 2 || inner.TOS != 0xbb {
		t.Errorf("TOS %#x outside and %#x inside", outer.TOS, inner.TOS)
	}
	if outer.Length != inner.Length+28 || outer.Flags != layers.IPv4DontFragment || udp.SrcPort != port || udp.DstPort != port {
		t.Errorf("outer header %+v, UDP %+v", outer, udp)
	}
	got, err := device.WaitFor(r.ctx, func(p lab.Packet) bool { return !p.Outgoing })
	if err != nil {
		t.Fatal(err)
	}
	if p := got.Data; !udptun.WellFormed(p) || p[8] != 62 || p[1] != 0xbb {
		t.Errorf("out of the device comes %x", got.Data)
	}
	for _, c := range []*lab.Capture{wire, device} {
		if _, err := c.Stop(); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []*node{r.left, r.right} {
		want := udptun.Traffic{1, 128}
		r.counted(n, func(s udptun.Stats) bool { return s.Sent == want && s.Delivered == want })
		r.drops(n, nil)
	}
}

// Bulk both ways at once: what arrives is what was sent.
func TestTCP(t *testing.T) {
	r := newPair(t)
	listener, err := r.right.Listen(r.ctx, "tcp4", r.right.container+":5001")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	var group errgroup.Group
	group.Go(func() error { return exchange(listener.Accept, data) })
	group.Go(func() error {
		return exchange(func() (net.Conn, error) { return r.left.Dial(r.ctx, "tcp4", listener.Addr().String()) }, data)
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if s := r.left.tunnel.Stats(); s.Sent.Bytes < uint64(len(data)) || s.Delivered.Bytes < uint64(len(data)) {
		t.Errorf("the tunnel carried less than was sent: %+v", s)
	}
}

// exchange sends data and expects the same from the other end meanwhile.
func exchange(connect func() (net.Conn, error), data []byte) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan error, 1)
	go func() {
		_, failed := conn.Write(data)
		sent <- failed
	}()
	got := make([]byte, len(data))
	if _, err = io.ReadFull(conn, got); err != nil {
		return errors.Join(err, conn.Close(), <-sent)
	}
	if !bytes.Equal(got, data) {
		return errors.New("what arrived differs from what was sent")
	}
	return <-sent
}

func TestICMPAnswers(t *testing.T) {
	tests := map[string]struct {
		ping string
		want string
		at   func(r *rig) *node // who drops and answers
		as   udptun.Reason
	}{
		"unknown destination": {"-c1 -W5 172.247.0.2", "From 172.245.0.2 icmp_seq=1 Destination Net Unreachable",
			func(r *rig) *node { return r.left }, udptun.NoRoute},
		"expired before the wire": {"-c1 -W5 -t1 172.246.0.2", "From 172.245.0.2 icmp_seq=1 Time to live exceeded",
			func(r *rig) *node { return r.left }, udptun.TTL},
		"expired behind the wire": {"-c1 -W5 -t2 172.246.0.2", "From 172.246.0.2 icmp_seq=1 Time to live exceeded",
			func(r *rig) *node { return r.right }, udptun.TTL},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newPair(t)
			out, err := r.left.Run(r.ctx, strings.Fields("ping "+tt.ping)...)
			if err == nil || !strings.Contains(out, tt.want) {
				t.Errorf("ping said, with error %v:\n%s\nwant %q", err, out, tt.want)
			}
			r.drops(tt.at(r), map[udptun.Reason]uint64{tt.as: 1})
			r.drops(r.other(tt.at(r)), nil)
		})
	}
}

// Each forged datagram is dropped under its reason, and what is right goes on.
func TestForged(t *testing.T) {
	r := newPair(t)
	r.run(r.left, "ip addr add 192.168.32.250/24 dev eth0")
	to := r.right.addr.String() + ":8285"
	forged := []struct {
		from    string
		payload []byte
		as      udptun.Reason
	}{
		{"192.168.32.245", udptun.IPv4("172.247.0.2", "172.246.0.2", 17, nil), udptun.SpoofedSource},
		{"192.168.32.245", udptun.IPv4("192.168.32.250", "172.246.0.2", 17, nil), udptun.SpoofedSource},
		{"192.168.32.250", udptun.IPv4("172.245.0.2", "172.246.0.2", 17, nil), udptun.UnknownHost},
		{"192.168.32.245", udptun.IPv4("172.245.0.2", "192.168.32.246", 17, nil), udptun.NotLocal},
		{"192.168.32.245", udptun.IPv4("172.245.0.2", "172.246.0.2", 17, nil)[:19], udptun.Malformed},
		{"192.168.32.245", append(udptun.IPv4("172.245.0.2", "172.246.0.2", 17, nil), 0), udptun.Malformed},
		{"192.168.32.245", nil, udptun.Malformed},
		{"192.168.32.245", bytes.Repeat([]byte{0x45}, 65507), udptun.Malformed},
	}
	want := map[udptun.Reason]uint64{}
	for _, f := range forged {
		err := r.left.Do(func() error {
			conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(f.from)}}).DialContext(r.ctx, "udp4", to)
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(f.payload)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want[f.as]++
	}
	r.until("all are dropped", func() bool { return r.right.tunnel.Stats().Dropped() == uint64(len(forged)) })
	r.drops(r.right, want)
	if s := r.right.tunnel.Stats(); s.Delivered.Packets != 0 {
		t.Errorf("%d delivered", s.Delivered.Packets)
	}
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
	// The node's own address is allowed as inner source.
	r.run(r.left, "ping -c1 -W5 -I 192.168.32.245 "+r.right.subnet.Addr().String())
}

// Peers come and go all the time, the one that is talked to stays: no packet is lost.
func TestSetPeersUnderTraffic(t *testing.T) {
	r := newPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		peer := r.peer(r.right)
		for i := 0; r.left.tunnel.Stats().Sent.Packets < 2000 && r.ctx.Err() == nil; i++ {
			r.left.tunnel.SetPeers([]udptun.Peer{peer, {Subnet: third, Node: nodeC}, peer}[:1+i%2*2])
		}
	}()
	r.run(r.left, "ping -q -c2000 -i0 -W1 "+r.right.container)
	<-done
	r.counted(r.left, func(s udptun.Stats) bool { return s.Sent.Packets == 2000 && s.Delivered.Packets == 2000 })
	r.drops(r.left, nil)
	r.drops(r.right, nil)
}

// The device and its routes survive the process, and packets for other nodes
// stay off the wire meanwhile.
func TestRestart(t *testing.T) {
	r := newPair(t)
	r.run(r.left, "ip route add default via "+r.right.addr.String())
	index, routes := r.left.tunnel.Ifindex(), r.run(r.left, "ip route show")
	r.stop(r.left)
	r.close(r.left)
	if now := strings.ReplaceAll(r.run(r.left, "ip route show"), " linkdown", ""); now != routes {
		t.Errorf("routes were:\n%sare:\n%s", routes, now)
	}
	wire, err := r.left.Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if out, lost := r.left.Run(r.ctx, "ping", "-c1", "-W1", r.right.container); lost == nil {
		t.Errorf("a ping came back with nobody copying:\n%s", out)
	}
	packets, err := wire.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		if len(lab.Decode(p).ICMP) > 0 {
			t.Errorf("on the wire: %s", lab.Summary(p))
		}
	}
	r.open(r.left)
	if got := r.left.tunnel.Ifindex(); got != index {
		t.Errorf("ifindex %d, was %d", got, index)
	}
	r.start(r.left)
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
}

// What waits in the device's queue when Run is told to end is still sent, and
// what waits in the socket is still delivered.
func TestEndOfRunDrains(t *testing.T) {
	const packets = 300
	r := newRig(t)
	for _, n := range []*node{r.left, r.right} {
		r.open(n)
		r.route(n)
	}
	conn, err := r.left.Dial(r.ctx, "udp4", r.right.container+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range packets {
		if _, err := conn.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	r.run(r.left, "ping -c1 -W5 "+r.right.addr.String()) // or what is sent before its MAC address is known would be lost
	before := r.inDelivers(r.right)
	r.start(r.left)
	r.stop(r.left)
	r.until("all are in the socket", func() bool { return r.inDelivers(r.right) >= before+packets })
	r.start(r.right)
	r.stop(r.right)
	if s := r.left.tunnel.Stats().Sent.Packets; s != packets {
		t.Errorf("%d of %d were sent", s, packets)
	}
	if d := r.right.tunnel.Stats().Delivered.Packets; d != packets {
		t.Errorf("%d of %d were delivered", d, packets)
	}
}

// A node that is away, without socket or without a MAC address, disturbs nobody.
func TestDeadPeers(t *testing.T) {
	r := newPair(t)
	r.left.tunnel.SetPeers([]udptun.Peer{r.peer(r.right), {Subnet: third, Node: nodeC}})
	conn, err := r.left.Dial(r.ctx, "udp4", "172.247.0.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := r.left.tunnel.Stats().Sent.Packets
	for range 400 {
		if _, err := conn.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
	if sent := r.left.tunnel.Stats().Sent.Packets; sent == before+1 {
		t.Error("nothing was sent to the dead node")
	}
	r.stop(r.right)
	r.close(r.right)
	for range 3 { // each meets an ICMP port unreachable
		_, _ = r.left.Run(r.ctx, "ping", "-c1", "-W1", r.right.container)
	}
	r.open(r.right)
	r.start(r.right)
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
}

// An inner packet as large as the device takes arrives over an underlay that
// turns out to carry less: the outer packet is fragmented.
func TestSmallUnderlay(t *testing.T) {
	r := newPair(t)
	for _, n := range []*node{r.left, r.right} {
		r.run(n, "ip link set eth0 mtu 1400")
	}
	r.run(r.left, "ping -c1 -W5 -M do -s 1444 "+r.right.container)
	r.drops(r.left, nil)
}

// What the kernel refuses to send is counted, and the rest goes on.
func TestRefusedSend(t *testing.T) {
	r := newPair(t)
	r.left.tunnel.SetPeers([]udptun.Peer{r.peer(r.right), {Subnet: third, Node: netip.MustParseAddr("10.9.9.9")}})
	if out, err := r.left.Run(r.ctx, "ping", "-c1", "-W1", "172.247.0.9"); err == nil {
		t.Errorf("a ping to a node without a route came back:\n%s", out)
	}
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
	r.drops(r.left, map[udptun.Reason]uint64{udptun.Send: 1})
}

// The outer ECN field is read: congestion marked on a flow without ECN drops.
func TestCongestionMarked(t *testing.T) {
	const ce = 3
	r := newPair(t)
	conn, err := r.left.Dial(r.ctx, "udp4", r.right.addr.String()+":8285")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err = ipv4.NewConn(conn).SetTOS(ce); err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Write(udptun.IPv4("172.245.0.2", "172.246.0.2", 17, nil)); err != nil {
		t.Fatal(err)
	}
	r.until("it is dropped", func() bool { return r.right.tunnel.Stats().Dropped() == 1 })
	r.drops(r.right, map[udptun.Reason]uint64{udptun.ECN: 1})
}

func TestDeviceRemovedUnderRun(t *testing.T) {
	r := newPair(t)
	if err := r.left.Do(udptun.Remove); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	stop := r.left.stop
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), udptun.DeviceName) {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run goes on without a device")
	}
	r.close(r.left)
	r.open(r.left)
	r.route(r.left)
	r.start(r.left)
	r.run(r.left, "ping -c1 -W5 "+r.right.container)
}
