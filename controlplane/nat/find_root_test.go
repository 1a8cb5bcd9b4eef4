// SPDX-License-Identifier: Apache-2.0

//go:build root

package nat

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func run(t *testing.T, command string) {
	t.Helper()
	args := strings.Fields(command)
	if strings.HasPrefix(command, "nft ") {
		args = []string{"nft", strings.TrimPrefix(command, "nft ")}
	}
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// TestFind writes rules as kube-proxy, Docker, nft's users and masquerading write them.
func TestFind(t *testing.T) {
	const chain = "nft add table ip mine { chain pre { type nat hook prerouting priority -100; } ; chain other { } ; } "
	for _, test := range []struct {
		name  string
		rules []string
		want  Found
	}{
		{name: "nothing"},
		{name: "empty nat table", rules: []string{"iptables-nft -t nat -N DOCKER"}},
		{name: "filter rules", rules: []string{"iptables-nft -A FORWARD -j ACCEPT", "iptables-legacy -A FORWARD -j ACCEPT"}},
		{name: "masquerading", rules: []string{
			"iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
			"iptables-nft -t nat -A POSTROUTING -d 10.0.0.1 -j SNAT --to-source 10.0.0.2"}},
		{name: "redirection to the host", rules: []string{"iptables-nft -t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 8080"}},
		{name: "nft, masquerading", rules: []string{"nft add table ip mine { chain post { type nat hook postrouting priority 100; masquerade; } ; }"}},
		{"Docker", []string{
			"iptables-nft -t nat -N DOCKER", "iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
			"iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80"},
			Found{maps.NATConntrack, "chain DOCKER of nftables' table nat"}},
		{"NETMAP", []string{"iptables-nft -t nat -A PREROUTING -d 10.0.0.0/24 -j NETMAP --to 10.1.0.0/24"},
			Found{maps.NATConntrack, "chain PREROUTING of nftables' table nat"}},
		{"nft", []string{chain, "nft add rule ip mine pre tcp dport 80 dnat to 172.17.0.2"},
			Found{maps.NATConntrack, "chain pre of nftables' table mine"}},
		{"nft, by a jump and a map", []string{chain, "nft add rule ip mine pre jump other",
			"nft add rule ip mine other dnat to tcp dport map { 80 : 172.17.0.2, 81 : 172.17.0.3 }"},
			Found{maps.NATConntrack, "chain other of nftables' table mine"}},
		{"nft, both versions", []string{
			"nft add table inet mine { chain out { type nat hook output priority -100; ip daddr 10.96.0.1 dnat ip to 172.17.0.2; } ; }"},
			Found{maps.NATConntrack, "chain out of nftables' table mine"}},
		{"iptables-legacy", []string{"iptables-legacy -t nat -A PREROUTING -d 10.96.0.1 -j DNAT --to-destination 172.17.0.2"},
			Found{maps.NATConntrack, "iptables-legacy's nat table"}},
		{name: "IPv6, masquerading", rules: []string{"ip6tables-nft -t nat -A POSTROUTING -s 2001:db8:42::/48 -j MASQUERADE"}},
		{name: "IPv6, filter rules", rules: []string{"ip6tables-nft -A FORWARD -j ACCEPT", "ip6tables-legacy -A FORWARD -j ACCEPT"}},
		{"IPv6, Docker", []string{
			"ip6tables-nft -t nat -N DOCKER", "ip6tables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
			"ip6tables-nft -t nat -A DOCKER ! -i docker0 -p tcp --dport 80 -j DNAT --to-destination [2001:db8:42:1::2]:80"},
			Found{maps.NATConntrack, "chain DOCKER of nftables' table nat"}},
		{"IPv6, nft", []string{
			"nft add table ip6 mine { chain pre { type nat hook prerouting priority -100; tcp dport 80 dnat to 2001:db8:42:1::2; } ; }"},
			Found{maps.NATConntrack, "chain pre of nftables' table mine"}},
		{"IPv6, nft, both versions", []string{
			"nft add table inet mine { chain out { type nat hook output priority -100; ip6 daddr 2001:db8::1 dnat ip6 to 2001:db8:42:1::2; } ; }"},
			Found{maps.NATConntrack, "chain out of nftables' table mine"}},
		{"ip6tables-legacy", []string{"ip6tables-legacy -t nat -A PREROUTING -d 2001:db8::1 -j DNAT --to-destination 2001:db8:42:1::2"},
			Found{maps.NATConntrack, "ip6tables-legacy's nat table"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			nstest.Enter(t)
			for _, rule := range test.rules {
				run(t, rule)
			}
			found, err := new(Finder).Find(maps.NATNone)
			if err != nil || found != test.want {
				t.Errorf("found %+v, error %v, want %+v", found, err, test.want)
			}
		})
	}
}

// TestFindAgain: what changes is seen, by the same Finder.
func TestFindAgain(t *testing.T) {
	nstest.Enter(t)
	var f Finder
	expect := func(want maps.NATMode) {
		t.Helper()
		for range 2 { // the second time nothing has changed
			if found, err := f.Find(maps.NATNone); err != nil || found.Mode != want {
				t.Errorf("found %+v, error %v, want %s", found, err, want)
			}
		}
	}
	expect(maps.NATNone)
	run(t, "iptables-nft -t nat -A PREROUTING -d 10.96.0.1 -j DNAT --to-destination 172.17.0.2")
	expect(maps.NATConntrack)
	run(t, "iptables-nft -t nat -F")
	expect(maps.NATNone)
}

// TestFindConnections: connections count where there have been rules, those
// that are translated alone.
func TestFindConnections(t *testing.T) {
	nstest.Enter(t)
	flow := &netlink.ConntrackFlow{
		FamilyType: unix.AF_INET, TimeOut: 100,
		Forward: netlink.IPTuple{SrcIP: []byte{10, 0, 0, 1}, DstIP: []byte{10, 0, 0, 2}, SrcPort: 1, DstPort: 2, Protocol: unix.IPPROTO_UDP},
		Reverse: netlink.IPTuple{SrcIP: []byte{10, 0, 0, 2}, DstIP: []byte{10, 0, 0, 1}, SrcPort: 2, DstPort: 1, Protocol: unix.IPPROTO_UDP},
	}
	if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, flow); err != nil {
		t.Fatal(err)
	}
	if there, err := translated(); there || err != nil {
		t.Errorf("a plain connection: translated %v, %v", there, err)
	}
	nstest.AddVeth(t, "out", 1500, "10.1.0.1/24")
	run(t, "ip route add default dev out")
	run(t, "iptables-nft -t nat -A OUTPUT -p udp -d 10.96.0.1 -j DNAT --to-destination 10.1.0.2")
	run(t, "bash -c echo>/dev/udp/10.96.0.1/53")
	run(t, "iptables-nft -t nat -F")
	var f Finder
	for before, want := range map[maps.NATMode]maps.NATMode{maps.NATNone: maps.NATNone, maps.NATConntrack: maps.NATConntrack, maps.NATOther: maps.NATConntrack} {
		if found, err := f.Find(before); err != nil || found.Mode != want {
			t.Errorf("found %+v, error %v, want %s", found, err, want)
		}
	}
}

// TestFindConnections6: those of IPv6 count as well.
func TestFindConnections6(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, "out", 1500, "2001:db8:1::1/64")
	run(t, "ip route add default via 2001:db8:1::2 dev out")
	run(t, "ip6tables-nft -t nat -A OUTPUT -p udp -d 2001:db8:96::1 -j DNAT --to-destination 2001:db8:1::2")
	run(t, "bash -c echo>/dev/udp/2001:db8:96::1/53")
	run(t, "ip6tables-nft -t nat -F")
	if found, err := new(Finder).Find(maps.NATConntrack); err != nil || found.Mode != maps.NATConntrack {
		t.Errorf("found %+v, error %v, want connections", found, err)
	}
}

// TestWatch: nftables' changes are told of, whoever makes them, until the end.
func TestWatch(t *testing.T) {
	nstest.Enter(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	events, ended := make(chan struct{}, 100), make(chan error, 1)
	conn, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- follow(ctx, conn, func() { events <- struct{}{} }) }()
	run(t, "iptables-nft -t nat -A PREROUTING -d 10.96.0.1 -j DNAT --to-destination 172.17.0.2")
	select {
	case <-events:
	case <-ctx.Done():
		t.Error("nothing was told of a rule")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
