// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestNarrowPath has the way from h1 to h2 carry less than the uplink (topology
// as TestOverlay). What a container sends without DF is cut and arrives; with DF
// its sender is told, by the host, what fits, and that arrives.
func TestNarrowPath(t *testing.T) {
	const underlay = 1400
	forEach(t, allModes, nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		run(t, h1.NS, "ip", "route", "add", h2.Addr.String()+"/32", "dev", lab.Uplink, "mtu", fmt.Sprint(underlay))
		mtu := underlay - l.Options.Overhead()
		waitPathMTU(t, h1, h2, mtu, fmt.Sprintf(" mtu %d", mtu))
		from, to := h1.Containers[0], h2.Containers[0]
		full, fits := l.Options.ContainerMTU()-28, mtu-28 // less IPv4 and ICMP headers
		run(t, from.NS, "ping", "-M", "dont", "-c", "1", "-W", "5", "-s", fmt.Sprint(full), to.Addr.String())
		ping(t, from.NS, to.Addr, lab.PingOptions{Count: 3, Size: fits, DF: true})
		c := capture(t, from.NS, "eth0")
		if r, err := from.NS.Ping(t.Context(), to.Addr, lab.PingOptions{Count: 1, Size: fits + 1, DF: true}); err != nil || r.Received != 0 {
			t.Errorf("a byte too many with DF: %+v, %v", r, err)
		}
		var told []string
		for _, p := range stop(t, c) {
			if d := lab.Decode(p); !p.Outgoing && len(d.ICMP) > 0 {
				told = append(told, fmt.Sprintf("%v, MTU %d", d.ICMP[0].TypeCode, d.ICMP[0].Seq))
			}
		}
		equal(t, "ICMP to the sender", []string{fmt.Sprintf("DestinationUnreachable(FragmentationNeeded), MTU %d", mtu)}, told)

		run(t, h1.NS, "ip", "route", "del", h2.Addr.String()+"/32")
		waitPathMTU(t, h1, h2, l.Options.ContainerMTU(), "")
		ping(t, h1.Containers[1].NS, to.Addr, lab.PingOptions{Count: 3, Size: full, DF: true})
	})
}

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
		waitPathMTU(t, h1, h2, step.container, " dev bpfnet0 ")
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
func waitPathMTU(t *testing.T, h, peer *lab.Host, mtu int, metric string) {
	t.Helper()
	until(t, fmt.Sprintf("the way from %s to %s has MTU %d", h.Name, peer.Name, mtu), func() (bool, error) {
		route, err := h.NS.Run(t.Context(), "ip", "route", "get", peer.Containers[0].Addr.String())
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
		hosts, err := set.Hosts.All()
		for _, host := range hosts {
			if host.Node == peer.Addr && int(host.MTU) == mtu {
				return true, err
			}
		}
		return false, err
	})
}
