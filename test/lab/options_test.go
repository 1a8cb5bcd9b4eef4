// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func TestAddresses(t *testing.T) {
	tests := []struct {
		underlay     Underlay
		number       int
		addr, subnet string
	}{
		{Flat, 1, "192.168.32.245", "172.245.0.0/24"},
		{Flat, 2, "192.168.32.246", "172.246.0.0/24"},
		{Flat, 3, "192.168.32.247", "172.247.0.0/24"},
		{Flat, 4, "192.168.32.248", "172.244.4.0/24"},
		{Flat, 10, "192.168.32.254", "172.244.10.0/24"},
		{Flat, 11, "192.168.32.11", "172.244.11.0/24"},
		{Routed, 1, "192.168.32.245", "172.245.0.0/24"},
		{Routed, 2, "192.168.33.246", "172.246.0.0/24"},
	}
	for _, test := range tests {
		o := Defaults()
		o.Underlay = test.underlay
		h := (&Lab{Options: o}).newHost(test.number)
		if h.Addr.String() != test.addr || h.Subnet.String() != test.subnet {
			t.Errorf("%s host %d: %s with %s, want %s with %s", test.underlay, test.number, h.Addr, h.Subnet, test.addr, test.subnet)
		}
	}
}

// TestAddressesAreDistinct: no two hosts share anything, all subnets lie in the network.
func TestAddressesAreDistinct(t *testing.T) {
	for _, underlay := range []Underlay{Flat, Routed} {
		o := Defaults()
		o.Underlay = underlay
		l := &Lab{Options: o}
		seen := make(map[string]int)
		for number := 1; number <= maxHosts; number++ {
			h := l.newHost(number)
			if !Network.Overlaps(h.Subnet) {
				t.Errorf("host %d: subnet %s is not in %s", number, h.Subnet, Network)
			}
			router := segmentAddr(h.Segment, 1).Addr()
			for _, key := range []string{h.Addr.String(), h.Subnet.String(), h.Name, string(h.NS), h.Bridge} {
				if other, ok := seen[key]; ok || key == router.String() {
					t.Errorf("hosts %d and %d share %s", number, other, key)
				}
				seen[key] = number
			}
		}
	}
}

func TestContainerMTU(t *testing.T) {
	for backend, want := range map[topology.Encap]int{
		topology.EncapVXLAN: 1450, topology.EncapIPIP: 1480, topology.EncapUDP: 1472, topology.EncapNone: 1500,
	} {
		o := Defaults()
		o.Backend = backend
		if got := o.ContainerMTU(); got != want {
			t.Errorf("%s: %d, want %d", backend, got, want)
		}
	}
}

func TestOverheadOf(t *testing.T) {
	for _, test := range []struct {
		backend      topology.Encap
		outer, inner Families
		want         int
	}{
		{topology.EncapVXLAN, V4, V4, 50}, {topology.EncapVXLAN, V6, V6, 70},
		{topology.EncapVXLAN, Dual, V4, 50}, {topology.EncapVXLAN, Dual, V6, 70},
		{topology.EncapIPIP, V4, V6, 20}, {topology.EncapIPIP, V6, V4, 40}, {topology.EncapIPIP, Dual, V6, 40},
		{topology.EncapNone, Dual, V6, 0},
	} {
		o := Options{Backend: test.backend, Outer: test.outer}
		if got := o.OverheadOf(test.inner); got != test.want {
			t.Errorf("%s over %s around %s: %d bytes, want %d", test.backend, test.outer, test.inner, got, test.want)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := Defaults().validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for want, change := range map[string]func(*Options){
		"lab name":      func(o *Options) { o.Name = "a-b" },
		"lab name \"":   func(o *Options) { o.Name = "../x" },
		"hosts":         func(o *Options) { o.Hosts = 0 },
		"201 hosts":     func(o *Options) { o.Hosts = 201 },
		"containers":    func(o *Options) { o.Containers = -1 },
		"backend":       func(o *Options) { o.Backend = "gre" },
		"dataplane":     func(o *Options) { o.Dataplane = "dpdk" },
		"underlay":      func(o *Options) { o.Underlay = "" },
		"wiring":        func(o *Options) { o.Wiring = "macvlan" },
		"MTU":           func(o *Options) { o.MTU = 500 },
		"inner":         func(o *Options) { o.Inner = "" },
		"outer":         func(o *Options) { o.Outer = "ipx" },
		"need at least": func(o *Options) { o.Inner, o.Outer, o.MTU = V6, V6, 1300 },
		"lab name \"\"": func(o *Options) { o.Name = "" },
	} {
		o := Defaults()
		change(&o)
		if err := o.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error about %s", err, want)
		}
	}
}
