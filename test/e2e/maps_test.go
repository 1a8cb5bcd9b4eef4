// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/test/lab"
)

// mapsDump is what this test looks at of `bpfnet maps dump -o json`.
type mapsDump struct {
	Routes []struct {
		Prefix netip.Prefix `json:"prefix"`
		Node   netip.Addr   `json:"node"`
		Self   bool         `json:"self"`
	} `json:"routes"`
	Hosts []struct {
		Node          netip.Addr `json:"node"`
		NextHop       netip.Addr `json:"next_hop"`
		Ifindex       int        `json:"ifindex"`
		MTU           int        `json:"mtu"`
		Encapsulation string     `json:"encapsulation"`
		Self          bool       `json:"self"`
	} `json:"hosts"`
	Neigh []struct {
		Addr netip.Addr `json:"address"`
		MAC  string     `json:"mac"`
	} `json:"neigh"`
	FDB []struct {
		VNI  int        `json:"vni"`
		MAC  string     `json:"mac"`
		Node netip.Addr `json:"node"`
	} `json:"fdb"`
	Endpoints []struct {
		Addr    netip.Addr `json:"address"`
		Ifindex int        `json:"ifindex"`
		MAC     string     `json:"mac"`
		Gateway string     `json:"gateway_mac"`
	} `json:"endpoints"`
	Counters []struct {
		Program string `json:"program"`
		Verdict string `json:"verdict"`
		Reason  string `json:"reason"`
		Packets uint64 `json:"packets"`
	} `json:"counters"`
}

// TestMapsDump reads the datapath while no daemon runs (topology as TestOverlay)
// and compares it with what the kernel and the lab know.
func TestMapsDump(t *testing.T) {
	l := serve(t, nil)
	h1, h2 := l.Hosts[0], l.Hosts[1]
	ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 3})
	for _, h := range []*lab.Host{h2, h1} {
		noError(t, h.StopDaemon(t.Context()))
	}
	var got mapsDump
	noError(t, json.Unmarshal([]byte(bpfnet(t, h1, "maps", "dump", "-o", "json")), &got))

	vtep, bridge := mac(t, h2, "bpfnet0"), mac(t, h1, h1.Bridge)
	var want mapsDump
	noError(t, json.Unmarshal(fmt.Appendf(nil, `{
		"routes": [
			{"prefix": "172.245.0.0/24", "node": "192.168.32.245", "self": true},
			{"prefix": "172.246.0.0/24", "node": "192.168.32.246"}],
		"hosts": [
			{"node": "192.168.32.245", "next_hop": "192.168.32.245", "ifindex": %d, "encapsulation": "host-gw", "self": true},
			{"node": "192.168.32.246", "next_hop": "192.168.32.246", "ifindex": %[1]d, "mtu": 1450, "encapsulation": "vxlan"}],
		"neigh": [{"address": "172.246.0.0", "mac": %q}],
		"fdb": [{"vni": 1, "mac": %[2]q, "node": "192.168.32.246"}],
		"endpoints": [
			{"address": "172.245.0.2", "ifindex": %d, "mac": %q, "gateway_mac": %q},
			{"address": "172.245.0.3", "ifindex": %d, "mac": %q, "gateway_mac": %[5]q}]
		}`, ifindex(t, h1, lab.Uplink), vtep,
		ifindex(t, h1, "vethc1"), macIn(t, h1.Containers[0].NS, "eth0"), bridge,
		ifindex(t, h1, "vethc2"), macIn(t, h1.Containers[1].NS, "eth0")), &want))
	counted := lab.Counters{}
	for _, c := range got.Counters {
		counted[lab.CounterKey{Program: c.Program, Verdict: c.Verdict, Reason: c.Reason}] = c.Packets
	}
	got.Counters = nil
	equal(t, "maps of h1", want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
	now := counters(t, h1)
	for key, packets := range counted {
		// Since the dump only what nobody asked for may have come: ARP, ends of etcd's connections.
		if now[key] < packets || key.Verdict == "forward" && now[key] != packets {
			t.Errorf("%v: %d packets by bpfnet, %d by the map", key, packets, now[key])
		}
	}
	if n := counted[counterKey(containerEncapsulated)]; n < 3 {
		t.Errorf("%d packets encapsulated, want the 3 pings at least", n)
	}
}

func ifindex(t *testing.T, h *lab.Host, iface string) int {
	t.Helper()
	return linkOf(t, h, iface).Attrs().Index
}

func linkOf(t *testing.T, h *lab.Host, iface string) (link netlink.Link) {
	t.Helper()
	noError(t, h.NS.Do(func() (err error) {
		link, err = netlink.LinkByName(iface)
		return err
	}))
	return link
}
