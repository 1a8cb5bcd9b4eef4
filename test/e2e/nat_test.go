// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// Where packets of translated connections are counted.
const (
	containerNAT        = "from_container pass/nat"
	containerNATUnknown = "from_container pass/nat_unknown"
	networkNAT          = "from_network pass/nat"
	networkNATUnknown   = "from_network pass/nat_unknown"
)

// networkNATOf is where a mode counts what comes out of the overlay for a
// container and is left to the NAT: where the kernel has no tunnel device, the
// stack gets it from us.
func networkNATOf(l *lab.Lab) string {
	if b := l.Options.Backend; b == topology.EncapIPIP || b == topology.EncapUDP {
		return networkToHost
	}
	return networkNAT
}

// fast are the counters of packets between containers that go past the kernel.
var fast = []string{containerEncapsulated, containerRouted, containerLocal, networkDelivered}

const (
	servicePort = 80
	backendPort = 8080
)

var service = netip.MustParseAddr("10.96.0.10") // of nobody: rules alone know it

// natCase is a connection that h1 translates.
type natCase struct {
	name    string
	rules   []string // of h1's nat table, for each of TCP and UDP
	from    lab.Namespace
	to      netip.Addr // at servicePort
	server  lab.Namespace
	backend netip.Addr // at backendPort
	slow    string     // a counter of h1 that has to move, beside none of the fast ones
}

// natCases are kube-proxy's and Docker's rules in small. Where hosts masquerade,
// another host's containers ask for a published port by their host's address.
func natCases(l *lab.Lab, masquerading bool) []natCase {
	h1 := l.Hosts[0]
	c1, c2, remote := h1.Containers[0], h1.Containers[1], l.Hosts[1].Containers[0]
	dnat := func(chain string, to, backend netip.Addr) string {
		return fmt.Sprintf("%s -d %s -p PROTOCOL --dport %d -j DNAT --to-destination %s:%d", chain, to, servicePort, backend, backendPort)
	}
	masquerade := func(source, backend fmt.Stringer) string {
		return fmt.Sprintf("POSTROUTING -s %s -d %s -p PROTOCOL --dport %d -j MASQUERADE", source, backend, backendPort)
	}
	published := containerNAT
	if masquerading {
		published = containerNoRoute
	}
	anyone := netip.MustParsePrefix("0.0.0.0/0")
	return []natCase{
		{"service, remote backend", []string{dnat("PREROUTING", service, remote.Addr)},
			c1.NS, service, remote.NS, remote.Addr, networkNATOf(l)},
		{"service, backend of the same host", []string{dnat("PREROUTING", service, c2.Addr)},
			c1.NS, service, c2.NS, c2.Addr, containerNAT},
		{"service, backend is the client", []string{dnat("PREROUTING", service, c1.Addr), masquerade(c1.Addr, c1.Addr)},
			c1.NS, service, c1.NS, c1.Addr, containerToNode},
		{"service, all masqueraded", []string{dnat("PREROUTING", service, remote.Addr), masquerade(c1.Addr, remote.Addr)},
			c1.NS, service, remote.NS, remote.Addr, containerNoRoute},
		{"published port, remote client", []string{dnat("PREROUTING", h1.Addr, c1.Addr)},
			remote.NS, h1.Addr, c1.NS, c1.Addr, published},
		{"published port at the bridge, remote client", []string{dnat("PREROUTING", h1.Gateway(), c1.Addr)},
			remote.NS, h1.Gateway(), c1.NS, c1.Addr, containerNAT},
		{"service, from the host, remote backend", []string{dnat("OUTPUT", service, remote.Addr)},
			h1.NS, service, remote.NS, remote.Addr, ""},
		{"service, from the host, local backend", []string{dnat("OUTPUT", service, c1.Addr)},
			h1.NS, service, c1.NS, c1.Addr, containerNoRoute},
		{"node port, remote backend, masqueraded",
			[]string{dnat("PREROUTING", h1.Addr, remote.Addr), masquerade(anyone, remote.Addr)},
			l.Wire(), h1.Addr, remote.NS, remote.Addr, ""},
		{"node port, local backend, source kept", []string{dnat("PREROUTING", h1.Addr, c1.Addr)},
			l.Wire(), h1.Addr, c1.NS, c1.Addr, containerNoRoute},
	}
}

// TestNAT: connections whose addresses the host translates, by rules that come
// while the daemons run, are whole in both directions, by TCP superpackets, small
// datagrams and fragmented ones; and those that it does not translate stay on the
// fast path, beside them.
func TestNAT(t *testing.T) {
	forEach(t, ebpfModes, nil, func(t *testing.T, l *lab.Lab) { testNAT(t, l, false) })
}

// TestNATBesideMasquerading: the same where bpfnet and Docker masquerade what
// leaves the overlay, and forwarded packets need a rule to pass.
func TestNATBesideMasquerading(t *testing.T) {
	for _, backend := range []topology.Encap{topology.EncapVXLAN, topology.EncapUDP} {
		t.Run(string(backend), func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = backend })
			for _, h := range l.Hosts {
				dockerRules(t, h)
			}
			startDaemons(t, l, "--ip-masq")
			for _, h := range l.Hosts {
				learn(t, h)
			}
			testNAT(t, l, true)
		})
	}
}

func testNAT(t *testing.T, l *lab.Lab, masquerading bool) {
	h1 := l.Hosts[0]
	c1, remote := h1.Containers[0], l.Hosts[1].Containers[0]
	echo(t, remote.NS, netip.AddrPortFrom(remote.Addr, backendPort+1))
	direct, err := c1.NS.Dial(t.Context(), "tcp4", netip.AddrPortFrom(remote.Addr, backendPort+1).String())
	noError(t, err)
	defer direct.Close()
	exchange(t, direct)
	equal(t, "NAT mode without rules", maps.NATNone, natMode(t, h1))
	for _, c := range natCases(l, masquerading) {
		t.Run(c.name, func(t *testing.T) {
			atRest(t, h1)
			for _, protocol := range []string{"tcp", "udp"} {
				natRules(t, h1, protocol, c.rules...)
			}
			waitNAT(t, h1)
			echo(t, c.server, netip.AddrPortFrom(c.backend, backendPort))
			// What a container sends itself goes back by the link it came from, as Docker and kubelet set it.
			run(t, h1.NS, "bridge", "link", "set", "dev", c1.Veth, "hairpin", "on")
			for _, protocol := range []string{"tcp4", "udp4"} {
				translated(t, h1, c, protocol)
			}
		})
	}
	atRest(t, h1)
	before := counters(t, h1)
	exchange(t, direct) // it has seen rules come and go
	datagrams(t, c1.NS, netip.AddrPortFrom(remote.Addr, backendPort+1), 1, 1000)
	moved := counters(t, h1).Since(before)
	for _, k := range []string{containerNAT, networkNAT, containerNATUnknown, networkNATUnknown, networkToHost} {
		if n := moved[counterKey(k)]; n != 0 {
			t.Errorf("a connection that is not translated: %d packets counted as %s", n, k)
		}
	}
	if moved[counterKey(networkDelivered)] < 2 {
		t.Errorf("a connection that is not translated left the fast path: %v", moved)
	}
}

// translated sends there and back by a connection that h1 translates, and holds
// h1's counters to its having taken the kernel's path.
func translated(t *testing.T, h1 *lab.Host, c natCase, protocol string) {
	t.Helper()
	before := counters(t, h1)
	target := netip.AddrPortFrom(c.to, servicePort)
	if protocol == "udp4" {
		datagrams(t, c.from, target, 1, 1000, 5000)
	} else {
		conn, err := c.from.Dial(t.Context(), protocol, target.String())
		noError(t, err)
		exchange(t, conn)
		noError(t, conn.Close())
	}
	moved := counters(t, h1).Since(before)
	if c.slow != "" && moved[counterKey(c.slow)] == 0 {
		t.Errorf("%s: nothing was counted as %s: %v", protocol, c.slow, moved)
	}
	for _, k := range fast {
		if n := moved[counterKey(k)]; n != 0 {
			t.Errorf("%s: %d packets took the fast path, %s", protocol, n, k)
		}
	}
}

// atRest waits until connections that exchange nothing any more have said their
// last word: acknowledgements may be late by 200 ms (TCP_DELACK_MAX of
// include/net/tcp.h).
func atRest(t *testing.T, h *lab.Host) {
	t.Helper()
	const lastWord = 250 * time.Millisecond
	before, since := counters(t, h), time.Now()
	until(t, h.Name+"'s fast path has been still for a while", func() (bool, error) {
		now, err := h.Counters()
		moved := now.Since(before)
		if slices.ContainsFunc(fast, func(k string) bool { return moved[counterKey(k)] != 0 }) {
			before, since = now, time.Now()
		}
		return time.Since(since) > lastWord, err
	})
}

// TestNATTogether: two connections of the same two containers at once, one
// translated and one not, each take their path.
func TestNATTogether(t *testing.T) {
	l := serve(t, nil)
	h1 := l.Hosts[0]
	c1, remote := h1.Containers[0], l.Hosts[1].Containers[0]
	backend := netip.AddrPortFrom(remote.Addr, backendPort)
	natRules(t, h1, "tcp", natCases(l, false)[0].rules...)
	waitNAT(t, h1)
	echo(t, remote.NS, backend)
	var conns []net.Conn
	for _, target := range []netip.AddrPort{backend, netip.AddrPortFrom(service, servicePort)} {
		conn, err := c1.NS.Dial(t.Context(), "tcp4", target.String())
		noError(t, err)
		defer conn.Close()
		conns = append(conns, conn)
	}
	before := counters(t, h1)
	both := inBackground(func() error { return exchangeWith(conns[0]) })
	noError(t, exchangeWith(conns[1]))
	both.wait(t)
	moved := counters(t, h1).Since(before)
	for _, k := range []string{containerEncapsulated, networkDelivered, containerNoRoute, networkNAT} {
		if moved[counterKey(k)] == 0 {
			t.Errorf("nothing was counted as %s: %v", k, moved)
		}
	}
}

// TestNATOver: a translated connection outlives its rule, and once it is gone
// too the programs ask conntrack no more.
func TestNATOver(t *testing.T) {
	l := serve(t, nil)
	h1 := l.Hosts[0]
	c := natCases(l, false)[0]
	natRules(t, h1, "tcp", "POSTROUTING -o lo -p PROTOCOL -j MASQUERADE") // without any rule of conntrack's, it ends
	remove := natRules(t, h1, "tcp", c.rules...)
	waitNAT(t, h1)
	echo(t, c.server, netip.AddrPortFrom(c.backend, backendPort))
	conn, err := c.from.Dial(t.Context(), "tcp4", netip.AddrPortFrom(c.to, servicePort).String())
	noError(t, err)
	exchange(t, conn)
	remove()
	noError(t, h1.StopDaemon(t.Context()))
	noError(t, h1.StartDaemon(t.Context())) // looks at once
	waitPeers(t, h1, 1)
	exchange(t, conn)
	equal(t, "NAT mode while a connection is left", maps.NATConntrack, natMode(t, h1))
	noError(t, conn.Close())
	noError(t, h1.NS.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }))
	until(t, "the programs know that the NAT is over", func() (bool, error) { return natMode(t, h1) == maps.NATNone, nil })
}

// TestNATLegacy: the rules of iptables-legacy are found, though the kernel does not tell of them.
func TestNATLegacy(t *testing.T) {
	l := serve(t, nil)
	h1, c := l.Hosts[0], natCases(l, false)[0]
	for _, rule := range c.rules {
		run(t, h1.NS, strings.Fields("iptables-legacy -t nat -A "+strings.ReplaceAll(rule, "PROTOCOL", "tcp"))...)
	}
	waitNAT(t, h1)
	echo(t, c.server, netip.AddrPortFrom(c.backend, backendPort))
	translated(t, h1, c, "tcp4")
}
