// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// testDatagrams sends UDP datagrams of 1 byte to 64 KiB, whole and in
// fragments, from and to every kind of place, and has every fragment counted.
func testDatagrams(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[0]
	mtu := l.Options.ContainerMTU()
	sizes := []int{1, 2, 17, 100, mtu - 29, mtu - 28, mtu - 27, 2*mtu - 48, 5000, 30000, 65507}
	for _, path := range []struct {
		name           string
		from, to       lab.Namespace
		addr           netip.Addr
		tunnel, direct [2][]string // the counters of h1 and of h2 that each fragment adds 1 to
	}{
		{"container to container", from.NS, to.NS, to.Addr,
			[2][]string{{containerEncapsulated}, {networkDelivered}}, [2][]string{{containerRouted}, {networkDelivered}}},
		{"container to bridge", from.NS, h2.NS, h2.Gateway(),
			[2][]string{{containerEncapsulated}, {networkToHost, overlayChecked}}, [2][]string{{containerRouted}, {networkNotOurs}}},
		{"host to container", h1.NS, to.NS, to.Addr,
			[2][]string{{hostEncapsulated}, {networkDelivered}}, [2][]string{nil, {networkNotOurs}}},
		{"container to container of its host", from.NS, h1.Containers[1].NS, h1.Containers[1].Addr,
			[2][]string{{containerLocal}}, [2][]string{{containerLocal}}},
	} {
		t.Run(path.name, func(t *testing.T) {
			want, packets := path.tunnel, 0
			if l.Options.Backend == topology.EncapNone {
				want = path.direct
			}
			for _, size := range sizes {
				packets += fragmentCount(size, mtu)
			}
			expectCounters(t, l, packets, want, func() { sendDatagrams(t, path.from, path.to, path.addr, sizes...) })
		})
	}
}

// sendDatagrams sends a datagram of each size, the next when one has arrived intact.
func sendDatagrams(t *testing.T, from, to lab.Namespace, addr netip.Addr, sizes ...int) {
	t.Helper()
	in := listenPacket(t, to, "udp", netip.AddrPortFrom(addr, 0).String())
	out, err := from.Dial(t.Context(), "udp", in.LocalAddr().String())
	noError(t, err)
	defer out.Close()
	for _, size := range sizes {
		payload := randomBytes(size)
		_, err := out.Write(payload)
		noError(t, err)
		receive(t, in, payload)
	}
}

// fragmentCount is how many IP packets carry a datagram of that many bytes.
func fragmentCount(size, mtu int) int {
	if size += 8; size+20 <= mtu {
		return 1
	}
	each := (mtu - 20) &^ 7 // offsets count 8 bytes
	return (size + each - 1) / each
}

// testFragmentsOutOfOrder sends the fragments of a datagram last one first. They
// arrive in that order, by one outer path, and are put together by the receiver alone.
func testFragmentsOutOfOrder(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[0]
	in := listenPacket(t, to.NS, "udp4", netip.AddrPortFrom(to.Addr, 0).String())
	payload := randomBytes(4000)
	datagram := udpPacket(from.Addr, to.Addr, 40000, localPort(in), payload)
	fragments := fragmentsOf(t, datagram, 1024)
	slices.Reverse(fragments)
	wire := capture(t, h2.NS, lab.Uplink)
	for _, fragment := range fragments {
		sendFromContainer(t, h1, from, fragment)
	}
	receive(t, in, payload)
	var offsets []int
	outer := map[layers.UDPPort]bool{}
	for _, p := range traffic(stop(t, wire)) {
		d := lab.Decode(p)
		offsets = append(offsets, 8*int(d.IPv4[len(d.IPv4)-1].FragOffset))
		if len(d.VXLAN) > 0 {
			outer[d.UDP[0].SrcPort] = true
		}
		noError(t, lab.VerifyChecksums(finished(p)))
	}
	equal(t, "offsets of the fragments on the wire", []int{3072, 2048, 1024, 0}, offsets)
	if len(outer) > 1 {
		t.Errorf("outer source ports %v, want one for all fragments", outer)
	}
}

func localPort(c net.PacketConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// randomBytes are the same for each size in every run.
func randomBytes(size int) []byte {
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)})
	_, _ = random.Read(b) // never fails
	return b
}

// testTTL: a container sees what two hops leave of a container's TTL, and one
// of a host's. Where a TTL ends, the host there answers, as a router does.
func testTTL(t *testing.T, l *lab.Lab) {
	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0], h2.Containers[1]
	for sender, ttl := range map[lab.Namespace]int{from.NS: 62, h1.NS: 63} {
		c := capture(t, to.NS, "eth0")
		ping(t, sender, to.Addr, lab.PingOptions{Count: 1})
		var got []uint8
		for _, p := range stop(t, c) {
			if d := lab.Decode(p); !p.Outgoing && len(d.ICMP) > 0 {
				got = append(got, d.IPv4[0].TTL)
			}
		}
		equal(t, "TTL of what arrived from "+string(sender), []uint8{uint8(modeOf(l).ttl(ttl))}, got)
	}
	near, far := []netip.Addr{h1.Gateway()}, []netip.Addr{h2.Gateway(), h2.Addr, h2.Subnet.Addr()} // whichever the kernel chooses
	hops := map[int][]netip.Addr{1: near, 2: far}
	if modeOf(l).copied() == 1 {
		hops = map[int][]netip.Addr{1: near, 2: near, 3: far, 4: far}
	}
	for ttl, answers := range hops {
		t.Run(fmt.Sprint("TTL ", ttl), func(t *testing.T) {
			c := capture(t, from.NS, "eth0")
			out, _ := from.NS.Run(t.Context(), "ping", "-c", "1", "-W", "5", "-t", fmt.Sprint(ttl), to.Addr.String())
			var got []string
			for _, p := range stop(t, c) {
				if d := lab.Decode(p); !p.Outgoing && len(d.ICMP) > 0 {
					got = append(got, fmt.Sprintf("%v from %v", d.ICMP[0].TypeCode, slices.Contains(answers, toAddr(d.IPv4[0].SrcIP))))
					noError(t, lab.VerifyChecksums(p))
				}
			}
			want := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimeExceeded, layers.ICMPv4CodeTTLExceeded)
			equal(t, "answers, and whether they are from that host: "+out, []string{fmt.Sprintf("%v from true", want)}, got)
		})
	}
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// testOptions sends pings with the IP option record route. The kernel of each
// host writes itself into it, as routers do.
func testOptions(t *testing.T, l *lab.Lab) {
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	out := run(t, from.NS, "ping", "-R", "-c", "1", "-W", "5", to.Addr.String())
	if !strings.Contains(out, "RR:") || !strings.Contains(out, "\t"+to.Addr.String()+"\n") {
		t.Errorf("no record of the route:\n%s", out)
	}
}
