// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestNarrowPath has the way from h1 to h2 carry less than the uplink (topology
// as TestOverlay).
func TestNarrowPath(t *testing.T) {
	forEach(t, allModes, nil, testNarrowPath)
}

// testNarrowPath: what a container sends with DF, and all of IPv6, its host
// tells it to be too big, and what fits, and that arrives; without DF it is cut.
func testNarrowPath(t *testing.T, l *lab.Lab) {
	const underlay = 1400
	f := l.Options.Inner
	h1, h2 := l.Hosts[0], l.Hosts[1]
	node := h2.Node(l.Options.OuterOf(f))
	narrow := netip.PrefixFrom(node, node.BitLen()).String()
	run(t, h1.NS, "ip", "route", "add", narrow, "dev", lab.Uplink, "mtu", fmt.Sprint(underlay))
	mtu := underlay - l.Options.Overhead()
	waitPathMTU(t, l, h1, h2, mtu, fmt.Sprintf(" mtu %d", mtu))
	from, other, to := h1.Containers[0].NS, h1.Containers[1].NS, h2.Containers[0].In(f)
	full, fits := l.Options.ContainerMTU()-icmpHeaders[f], mtu-icmpHeaders[f]
	if f == lab.V4 {
		run(t, from, "ping", "-M", "dont", "-c", "1", "-W", "5", "-s", fmt.Sprint(full), to.String())
	}
	ping(t, from, to, lab.PingOptions{Count: 3, Size: fits, DF: true})
	c := capture(t, from, "eth0")
	if r, err := from.Ping(t.Context(), to, lab.PingOptions{Count: 1, Size: fits + 1, DF: true}); err != nil || r.Received != 0 {
		t.Errorf("a byte too many with DF: %+v, %v", r, err)
	}
	equal(t, "errors to the sender", []icmpError{{From: h1.GatewayOf(f), What: "too big", MTU: mtu}}, icmpErrors(t, stop(t, c)), addresses)
	ping(t, from, to, lab.PingOptions{Count: 3, Size: full}) // in pieces that fit, which it makes itself now
	transfer(t, other, h2.Containers[0].NS, to, 1<<20)       // of one that has been told nothing yet

	run(t, h1.NS, "ip", "route", "del", narrow)
	waitPathMTU(t, l, h1, h2, l.Options.ContainerMTU(), "")
	for _, family := range []string{"-4", "-6"} {
		run(t, other, "ip", family, "route", "flush", "cache") // what it has learnt
	}
	ping(t, other, to, lab.PingOptions{Count: 3, Size: full, DF: true})
}

// icmpHeaders are the IP and the ICMP header in front of a ping's payload, bytes.
var icmpHeaders = map[lab.Families]int{lab.V4: 28, lab.V6: 48}

// TestBackendMTU configures what the underlay carries, outer headers included, as
// with flannel. What the uplink cannot carry is said, and the uplink's MTU served.
func TestBackendMTU(t *testing.T) {
	forEach(t, both(topology.EncapVXLAN), nil, testBackendMTU)
}

func testBackendMTU(t *testing.T, l *lab.Lab) {
	c := etcd(t, l)
	for _, step := range []struct{ backend, container int }{{1400, 1350}, {1500, 1450}, {1300, 1250}, {9000, 1450}} {
		_, err := c.Put(t.Context(), store.DefaultPrefix+"/config", fmt.Sprintf(
			`{"Network":%q,"SubnetLen":%d,"Backend":{"Type":"vxlan","MTU":%d}}`, lab.Network, lab.SubnetLen, step.backend))
		noError(t, err)
		h1, h2 := l.Hosts[0], l.Hosts[1]
		for _, h := range l.Hosts {
			until(t, fmt.Sprintf("%s serves MTU %d", h.Name, step.container), func() (bool, error) {
				s, err := h.DaemonStatus(t.Context())
				return err == nil && s.MTU == step.container && len(s.Peers) == 1, err
			})
		}
		waitPathMTU(t, l, h1, h2, step.container, " dev bpfnet0 ")
		if link := run(t, h1.NS, "ip", "link", "show", "bpfnet0"); !strings.Contains(link, fmt.Sprintf(" mtu %d ", step.container)) {
			t.Errorf("Backend.MTU %d: %s", step.backend, link)
		}
		ping(t, h1.NS, h2.Containers[0].Addr, lab.PingOptions{Count: 3, Size: step.container - 28, DF: true})
	}
	log, err := os.ReadFile(l.Hosts[0].LogFile())
	noError(t, err)
	if n := strings.Count(string(log), "Backend.MTU is more than the uplink carries"); n != 1 {
		t.Errorf("said %d times that 9000 is too much, want once", n)
	}
}

// waitPathMTU waits until both the kernel and the fast path of a host, where it
// has one, know what fits on the way to a peer's containers, the kernel by its route's metric ("": it has none).
func waitPathMTU(t *testing.T, l *lab.Lab, h, peer *lab.Host, mtu int, metric string) {
	t.Helper()
	f := l.Options.Inner
	until(t, fmt.Sprintf("the way from %s to %s has MTU %d", h.Name, peer.Name, mtu), func() (bool, error) {
		route, err := h.NS.Run(t.Context(), "ip", "route", "get", peer.Containers[0].In(f).String())
		if err != nil || !strings.Contains(route, metric) || metric == "" && strings.Contains(route, " mtu ") {
			return false, err
		}
		set, err := h.Maps()
		if errors.Is(err, maps.ErrNoDatapath) {
			return true, nil // the kernel is the only one to know
		}
		if err != nil {
			return false, err
		}
		defer set.Close()
		index, err := set.Routes.Lookup(peer.Containers[0].In(f))
		if err != nil {
			return false, err
		}
		host, _, err := set.Hosts.Get(index) // one that it had before may still rest
		return host.Node == peer.Node(l.Options.OuterOf(f)) && int(host.MTU) == mtu, err
	})
}
