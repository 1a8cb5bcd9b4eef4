// SPDX-License-Identifier: Apache-2.0

//go:build root

package underlay

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// dualNode enters a namespace with
//
//	eth0  192.168.32.245/24, 2001:db8:1::245/64, 2001:db8:1::9/64, fe80::1/64
//	eth1  10.0.0.5/24, fe80::2/64
//	eth2  2001:db8:2::5/64, fe80::3/64
func dualNode(t *testing.T) {
	t.Helper()
	nstest.Enter(t)
	for _, i := range []struct{ name, addrs string }{
		{"eth0", "192.168.32.245/24 2001:db8:1::9/64 2001:db8:1::245/64 fe80::1/64"},
		{"eth1", "10.0.0.5/24 fe80::2/64"},
		{"eth2", "2001:db8:2::5/64 fe80::3/64"},
	} {
		nstest.AddVeth(t, i.name, 1500)
		addrs6(t, i.name, i.addrs)
	}
}

// addrs6 gives an interface addresses that need no duplicate address detection,
// with what else "ip addr add" takes after each of them, by "|" or blanks.
func addrs6(t *testing.T, name, addrs string) {
	t.Helper()
	run(t, "sysctl -qw net.ipv6.conf."+name+".addr_gen_mode=1")
	run(t, "sysctl -qw net.ipv6.conf."+name+".disable_ipv6=0")
	sep := " "
	if strings.Contains(addrs, "|") {
		sep = "|"
	}
	for a := range strings.SplitSeq(addrs, sep) {
		nodad := ""
		plain, dad := strings.CutSuffix(a, " dad")
		if strings.Contains(a, ":") && !dad {
			nodad = " nodad"
		}
		run(t, "ip addr add dev "+name+" "+plain+nodad)
	}
}

// TestFindInTwoFamilies holds which interface is taken, and which of its
// addresses, by the families that the network has.
func TestFindInTwoFamilies(t *testing.T) {
	addr := netip.MustParseAddr
	four, six, dual := Options{IPv4: true}, Options{IPv6: true}, Options{IPv4: true, IPv6: true}
	either := Options{IPv4: true, IPv6: true, Either: true}
	with := func(o Options, f func(*Options)) Options { f(&o); return o }
	iface := func(names ...string) func(*Options) { return func(o *Options) { o.Iface = names } }
	regex := func(s string) func(*Options) { return func(o *Options) { o.IfaceRegex = []string{s} } }
	reach := func(s string) func(*Options) { return func(o *Options) { o.CanReach = addr(s) } }
	public := func(v4, v6 string) func(*Options) {
		return func(o *Options) {
			o.PublicIP, _ = netip.ParseAddr(v4)
			o.PublicIPv6, _ = netip.ParseAddr(v6)
		}
	}
	const thereAre6 = "there are eth0 [2001:db8:1::245 2001:db8:1::9], eth2 [2001:db8:2::5]"
	const thereAreAll = "there are eth0 [192.168.32.245 2001:db8:1::245 2001:db8:1::9], eth1 [10.0.0.5], eth2 [2001:db8:2::5]"
	for name, tc := range map[string]struct {
		o      Options
		routes []string // for "ip route add default", or "ip -6 route …"
		want   string   // interface, addresses, public addresses
		err    string
	}{
		"dual stack by name":      {o: with(dual, iface("eth0")), want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"IPv4 alone by name":      {o: with(four, iface("eth0")), want: "eth0 192.168.32.245 - 192.168.32.245 -"},
		"IPv6 alone by name":      {o: with(six, iface("eth0")), want: "eth0 - 2001:db8:1::245 - 2001:db8:1::245"},
		"no family asked for":     {o: with(Options{}, iface("eth1")), want: "eth1 10.0.0.5 - 10.0.0.5 -"},
		"link-local is no uplink": {o: with(dual, iface("eth1")), err: "--iface eth1: eth1 has no IPv6 address that other links could reach (" + thereAreAll + ")"},
		"either will do":          {o: with(either, iface("eth1")), want: "eth1 10.0.0.5 - 10.0.0.5 -"},
		"either, IPv6":            {o: with(either, iface("eth2")), want: "eth2 - 2001:db8:2::5 - 2001:db8:2::5"},
		"by an IPv6 address":      {o: with(dual, iface("2001:db8:1::9")), want: "eth0 192.168.32.245 2001:db8:1::9 192.168.32.245 2001:db8:1::9"},
		"by an IPv4 address":      {o: with(dual, iface("192.168.32.245")), want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"the IPv6 address is not of the network's family": {o: with(four, iface("2001:db8:1::9")),
			err: "--iface 2001:db8:1::9: no interface has this address (there are eth0 [192.168.32.245], eth1 [10.0.0.5])"},
		"regex of an IPv4 address": {o: with(dual, regex(`^192\.`)), want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"regex of two addresses":   {o: with(dual, regex(`^10\.|^192\.|::9$`)), want: "eth0 192.168.32.245 2001:db8:1::9 192.168.32.245 2001:db8:1::9"},
		"regex of IPv6":            {o: with(six, regex(`^2001:db8:2:`)), want: "eth2 - 2001:db8:2::5 - 2001:db8:2::5"},
		"regex of a name":          {o: with(dual, regex(`^eth`)), want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"regex, and a family is missing": {o: with(dual, regex(`^eth2`)),
			err: "--iface-regex ^eth2: eth2 has no IPv4 address (" + thereAreAll + ")"},
		"can reach over IPv6": {o: with(dual, reach("2001:db8:1::77")), want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"default routes":      {o: dual, routes: []string{"default via 192.168.32.1", "default via fe80::99 dev eth0"}, want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"default route of IPv6": {o: six, routes: []string{"default via 10.0.0.1", "default via fe80::99 dev eth2"},
			want: "eth2 - 2001:db8:2::5 - 2001:db8:2::5"},
		"IPv4's default route lacks IPv6": {o: dual, routes: []string{"default via 10.0.0.1", "default via fe80::99 dev eth0"},
			want: "eth0 192.168.32.245 2001:db8:1::245 192.168.32.245 2001:db8:1::245"},
		"neither default route has both": {o: dual, routes: []string{"default via 10.0.0.1", "default via fe80::99 dev eth2"},
			err: "default route: eth1 has no IPv6 address that other links could reach (" + thereAreAll + ")"},
		"no default route of IPv6": {o: six, routes: []string{"default via 10.0.0.1"},
			err: "there is no default route: name the interface with --iface NAME or --iface-can-reach ADDRESS"},
		"no family asked for, IPv6 alone": {o: Options{}, routes: []string{"default via fe80::99 dev eth2"}, want: "eth2 - 2001:db8:2::5 - 2001:db8:2::5"},
		"public addresses of NAT":         {o: with(with(dual, iface("eth0")), public("203.0.113.7", "2001:db8:9::7")), want: "eth0 192.168.32.245 2001:db8:1::245 203.0.113.7 2001:db8:9::7"},
		"a public address of its own":     {o: with(with(dual, iface("eth0")), public("", "2001:db8:1::9")), want: "eth0 192.168.32.245 2001:db8:1::9 192.168.32.245 2001:db8:1::9"},
		"by the public IPv6":              {o: with(six, public("", "2001:db8:2::5")), want: "eth2 - 2001:db8:2::5 - 2001:db8:2::5"},
		"by the public IP first":          {o: with(dual, public("192.168.32.245", "2001:db8:1::9")), want: "eth0 192.168.32.245 2001:db8:1::9 192.168.32.245 2001:db8:1::9"},
		"public IPv6 of nobody": {o: with(six, public("", "2001:db8:7::7")),
			err: "no interface has address 2001:db8:7::7: use --iface NAME or --public-ipv6 with an address of this node (" + thereAre6 + ")"},
		"public IPv6 of nobody, and IPv4 will do": {o: with(Options{}, public("", "2001:db8:7::7")), routes: []string{"default via 10.0.0.1"},
			want: "eth1 10.0.0.5 - 10.0.0.5 -"},
		"public IPv6 without an IPv6 network": {o: with(four, public("", "2001:db8:7::7")), routes: []string{"default via 10.0.0.1"},
			want: "eth1 10.0.0.5 - 10.0.0.5 -"},
	} {
		t.Run(name, func(t *testing.T) {
			dualNode(t)
			for _, r := range tc.routes {
				run(t, "ip route add "+r)
			}
			up, err := Find(tc.o)
			if tc.err != "" {
				if err == nil || err.Error() != "find uplink: "+tc.err {
					t.Errorf("got %v, error\n%v, want\nfind uplink: %s", up, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := up.Name
			for _, a := range []netip.Addr{up.Addr, up.Addr6, up.PublicIP, up.PublicIPv6} {
				if a.IsValid() {
					got += " " + a.String()
				} else {
					got += " -"
				}
			}
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// TestFindPrefersIPv6 checks which of an interface's IPv6 addresses is taken.
func TestFindPrefersIPv6(t *testing.T) {
	const slaac = " valid_lft 3600 preferred_lft 3600"
	for name, tc := range map[string]struct{ addrs, want string }{
		"a global one":                  {"fe80::5/64|2001:db8::5/64", "2001:db8::5"},
		"of a private network":          {"fe80::5/64|fd00::5/64", "fd00::5"},
		"a static one before SLAAC's":   {"2001:db8::9/64" + slaac + "|2001:db8::5/64", "2001:db8::5"},
		"none that is deprecated":       {"2001:db8::9/64 valid_lft 3600 preferred_lft 0|2001:db8::5/64" + slaac, "2001:db8::5"},
		"none that is being looked for": {"2001:db8::9/64 dad|2001:db8::5/64" + slaac, "2001:db8::5"},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			nstest.AddVeth(t, "eth0", 1500)
			if strings.Contains(tc.addrs, " dad") { // it ends only where there is a link
				run(t, "sysctl -qw net.ipv6.conf.eth0.dad_transmits=600")
			}
			addrs6(t, "eth0", tc.addrs)
			if up, err := Find(Options{IPv6: true, Iface: []string{"eth0"}}); err != nil || up.Addr6.String() != tc.want {
				t.Errorf("got %s, %v, want %s", up.Addr6, err, tc.want)
			}
		})
	}
}

// TestFindKeepsIPv6: an address that somebody adds is no reason to change this node's.
func TestFindKeepsIPv6(t *testing.T) {
	dualNode(t)
	o := Options{IPv4: true, IPv6: true, IfaceRegex: []string{"^2001:"}}
	up, err := Find(o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip addr add 2001:db8:1::77/64 dev eth0 nodad")
	if now, err := Find(o); err != nil || now == up {
		t.Errorf("got %s, %v: the kernel lists the newest first, does it not?", now, err)
	}
	o.Keep6 = up.Addr6
	if now, err := Find(o); err != nil || now != up {
		t.Errorf("got %s, %v, was %s", now, err, up)
	}
	run(t, "ip addr change "+up.Addr6.String()+"/64 dev eth0 valid_lft 3600 preferred_lft 0")
	if now, err := Find(o); err != nil || now.Addr6 != netip.MustParseAddr("2001:db8:1::77") {
		t.Errorf("got %s, %v, want what is not deprecated", now, err)
	}
}

// TestCheckIPv6 loses one of two addresses, and then the other.
func TestCheckIPv6(t *testing.T) {
	dualNode(t)
	up, err := Find(Options{IPv4: true, IPv6: true, Iface: []string{"eth0"}})
	if err != nil {
		t.Fatal(err)
	}
	lost, err := up.Check()
	if len(lost) > 0 || err != nil {
		t.Errorf("lost %v, %v", lost, err)
	}
	run(t, "ip addr del 2001:db8:1::245/64 dev eth0")
	lost, err = up.Check()
	if diff := cmp.Diff("[2001:db8:1::245] uplink eth0 has lost its address 2001:db8:1::245: give it one", fmt.Sprint(lost, " ", err)); diff != "" {
		t.Error(diff)
	}
	run(t, "ip addr del 192.168.32.245/24 dev eth0")
	if lost, err = up.Check(); len(lost) != 2 || !strings.Contains(fmt.Sprint(err), "192.168.32.245") {
		t.Errorf("lost %v, %v", lost, err)
	}
}

func TestPathToIPv6(t *testing.T) {
	addr := netip.MustParseAddr
	checkPaths(t, dualNode, map[string]pathCase{
		"on the link": {node: "2001:db8:1::246", iface: "eth0", want: topology.Path{NextHop: addr("2001:db8:1::246"), MTU: 1500}},
		"by a link-local router": {setup: []string{"ip route add default via fe80::99 dev eth2"}, node: "2001:db8:7::1", iface: "eth2",
			want: topology.Path{NextHop: addr("fe80::99"), MTU: 1500}},
		"by a router": {setup: []string{"ip route add 2001:db8:7::/48 via 2001:db8:1::99"}, node: "2001:db8:7::1", iface: "eth0",
			want: topology.Path{NextHop: addr("2001:db8:1::99"), MTU: 1500}},
		"narrow route": {setup: []string{"ip route add 2001:db8:7::/48 via fe80::99 dev eth0 mtu 1400"}, node: "2001:db8:7::1", iface: "eth0",
			want: topology.Path{NextHop: addr("fe80::99"), MTU: 1400}},
		"itself":      {node: "2001:db8:1::245", err: "2001:db8:1::245 is an address of this node itself"},
		"multicast":   {node: "ff0e::1", err: "ff0e::1 is not the address of a node: its route is of type 5"},
		"unreachable": {node: "2001:db8:7::1", err: "look up route to 2001:db8:7::1: network is unreachable"},
		"blackhole":   {setup: []string{"ip route add blackhole 2001:db8:7::/48"}, node: "2001:db8:7::1", err: "look up route to 2001:db8:7::1: invalid argument"},
	})
}

// TestListenTunnelOverIPv6: a router says of each tunnel's packet that it was
// too big (RFC 4443 section 3.2). The kernel's vxlan device, which takes in what
// concerns vxlan, is not there, so only the call is looked for.
func TestListenTunnelOverIPv6(t *testing.T) {
	own, peer := netip.MustParseAddr("2001:db8:1::245"), netip.MustParseAddr("2001:db8:1::246")
	for name, tc := range map[string]struct {
		encap topology.Encap
		next  byte // header
		mtu   int  // learnt; 0: none
	}{
		"IPv6 in IPv6":         {topology.EncapIPIP, unix.IPPROTO_IPV6, 1400},
		"IPv4 in IPv6":         {topology.EncapIPIP, unix.IPPROTO_IPIP, 1400},
		"vxlan":                {topology.EncapVXLAN, unix.IPPROTO_UDP, 0},
		"host-gw does not ask": {topology.EncapNone, unix.IPPROTO_UDP, -1},
	} {
		t.Run(name, func(t *testing.T) {
			dualNode(t)
			run(t, "ip link set lo up")
			calls := make(chan struct{}, 100)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			// The sockets are opened in this thread's namespace: so it is this goroutine that watches.
			conn, err := net.ListenPacket("ip6:58", own.String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() {
				defer cancel()
				done <- tell(ctx, conn, calls, tooBigFrom(own, peer, tc.next), tc.mtu >= 0)
			}()
			if err := ListenTunnel(ctx, tc.encap, netip.AddrPortFrom(own, 8472), 0, TunnelEvents{PathMTU: func() { calls <- struct{}{} }}); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got, err := PathTo(peer); tc.mtu > 0 && (err != nil || got.MTU != tc.mtu) {
				t.Errorf("path's MTU is %d, error %v", got.MTU, err)
			}
		})
	}
}

// tell waits for the first call, and sends the message, as routers do again and
// again, until there is another.
func tell(ctx context.Context, conn net.PacketConn, calls <-chan struct{}, message []byte, expected bool) error {
	if !expected {
		return nil
	}
	deadline := time.After(30 * time.Second)
	var again <-chan time.Time
	for called := 0; called < 2; {
		select {
		case <-calls:
			called++
		case <-again:
		case <-deadline:
			return fmt.Errorf("waited in vain for call %d", called+1)
		case <-ctx.Done():
			return ctx.Err()
		}
		if called == 1 {
			again = time.After(100 * time.Millisecond)
			if _, err := conn.WriteTo(message, conn.LocalAddr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// tooBigFrom is the message Packet Too Big, MTU 1400, about a packet from own to peer.
func tooBigFrom(own, peer netip.Addr, next byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{icmp6TooBig, 0, 0, 0}, 1400)
	b = append(b, 0x60, 0, 0, 0, 0x05, 0xb4, next, 64)
	b = append(append(b, own.AsSlice()...), peer.AsSlice()...)
	return append(b, 0xc0, 0, 0x21, 0x18, 0x05, 0xb4, 0, 0) // UDP to port 8472, or the begin of another packet
}
