// SPDX-License-Identifier: Apache-2.0

package xdp

import (
	"slices"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

func TestChoose(t *testing.T) {
	nic := Link{
		Kernel: 6<<16 | 12<<8, MAC: topology.MAC{2}, Tunnels: true, Driver: "ice", Hardware: true, Known: true,
		Features: actBasic | actRxFrags,
	}
	with := func(change func(*Link)) Link {
		l := nic
		change(&l)
		return l
	}
	veth := with(func(l *Link) { l.Driver, l.Hardware = "veth", false })
	old := with(func(l *Link) { l.Kernel = 5<<16 | 17<<8 })
	silent := with(func(l *Link) { l.Known, l.Features = false, 0 })
	plain := with(func(l *Link) { l.Driver, l.Features = "e1000e", 0 })
	oneBuffer := with(func(l *Link) { l.Driver, l.Features = "ena", actBasic })
	virtio := with(func(l *Link) { l.Driver = "virtio_net" })
	bond := with(func(l *Link) { l.Driver, l.Hardware = "bonding", false })
	direct := with(func(l *Link) { l.Tunnels = false })
	tun := with(func(l *Link) { l.MAC = topology.MAC{} })
	cpus := []uint16{0, 2}
	for _, c := range []struct {
		want Mode
		link Link
		mode Mode
		why  string // part of it
		err  string // likewise; "": none
	}{
		{Off, nic, Off, "as told", ""},
		{Auto, nic, Native, "driver ice has it", ""},
		{Auto, veth, Off, "driver veth would slow", ""},
		{Auto, virtio, Off, "driver virtio_net would slow", ""},
		{Auto, bond, Off, "driver bonding is of no NIC", ""},
		{Auto, oneBuffer, Off, "ena has no native XDP for packets in several buffers", ""},
		{Auto, plain, Off, "e1000e has no native XDP", ""},
		{Auto, silent, Off, "does not tell", ""},
		{Auto, old, Off, "needs Linux 5.18", ""},
		{Auto, direct, Off, "no tunnels", ""},
		{Auto, tun, Off, "no Ethernet address", ""},
		{Native, nic, Native, "as told", ""},
		{Native, virtio, Native, "as told", ""},
		{Native, silent, Native, "as told", ""}, // attaching will tell
		{Native, veth, Native, "as told", "not spread over CPUs: veth"},
		{Native, plain, Off, "e1000e has no native XDP", "no XDP on the uplink: driver e1000e"},
		{Native, old, Off, "needs Linux 5.18", "no XDP on the uplink: XDP for packets"},
		{Generic, veth, Generic, "as told", ""},
		{Generic, plain, Generic, "as told", ""},
		{Generic, direct, Off, "no tunnels", "no XDP on the uplink: this network has no tunnels"},
	} {
		got, err := Choose(Want{c.want, cpus}, c.link)
		if got.Mode != c.mode || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s on %s: %s, %q, want %s, %q", c.want, c.link.Driver, got.Mode, got.Why, c.mode, c.why)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s on %s: error %v, want %q", c.want, c.link.Driver, err, c.err)
		}
		if spread := c.mode != Off && err == nil; spread != slices.Equal(got.CPUs, cpus) {
			t.Errorf("%s on %s: spread over %v", c.want, c.link.Driver, got.CPUs)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for text, want := range map[string][]uint16{
		"": nil, "0": {0}, "0-3,8": {0, 1, 2, 3, 8}, "3,1": {3, 1}, "9": {9},
	} {
		if got, err := ParseCPUs(text, 10); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"all", "1-", "-1", "3-1", "10", "0,", "0-9,0-9,0-9,0-9,0-9,0-9,0-9", "65536"} {
		if got, err := ParseCPUs(text, 10); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Off, Generic, Native, Auto} {
		if got, err := ParseMode(string(m)); err != nil || got != m {
			t.Errorf("%s: %s, %v", m, got, err)
		}
	}
	if m, err := ParseMode("hw"); err == nil {
		t.Errorf("hw: %s, want an error", m)
	}
}

// The mark is unicast and locally administered, the uplink's own, and always the same.
func TestMark(t *testing.T) {
	a, b := Mark(topology.MAC{2, 1}), Mark(topology.MAC{2, 2})
	if a != Mark(topology.MAC{2, 1}) || a == b || a[0]&3 != 2 || b[0]&3 != 2 {
		t.Errorf("marks %s and %s", a, b)
	}
}
