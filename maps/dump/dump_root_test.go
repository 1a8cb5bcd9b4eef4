// SPDX-License-Identifier: Apache-2.0

//go:build root

package dump

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSet is a datapath's maps with an index over 172.244.0.0/14.
func newSet(t *testing.T) (*maps.Set, map[string]*ebpf.Map) {
	t.Helper()
	must(t, rlimit.RemoveMemlock())
	spec, err := bpf.LoadDatapath()
	must(t, err)
	settings := bpf.DatapathSettings{Vni: 1, VxlanPort: 0x1821}
	maps.Window{Base: netip.MustParseAddr("172.244.0.0"), Bits: 24, Count: 1024}.Encode(&settings.Ipv4)
	settings.Ipv4.Node = maps.Addr(self)
	must(t, spec.Variables[bpf.DatapathVarConfig].Set(&settings))
	spec.Maps["route_index"].MaxEntries = settings.Ipv4.IndexCount
	spec.Programs = nil
	coll, err := ebpf.NewCollection(spec)
	must(t, err)
	t.Cleanup(coll.Close)
	set, err := maps.NewSet(coll.Maps)
	must(t, err)
	return set, coll.Maps
}

// fill puts a network of two nodes, and an entry that does not decode.
func fill(t *testing.T, set *maps.Set, datapath map[string]*ebpf.Map) {
	t.Helper()
	prefix, mac := netip.MustParsePrefix, maps.MAC{0x0e, 0, 0, 0, 0, 2}
	must(t, set.Hosts.Put(1, maps.Host{Node: self, NextHop: self, Ifindex: 2}))
	must(t, set.Hosts.Put(2, vxlanHost()))
	must(t, set.Templates.Put(1, vxlanTemplate()))
	shortcut := maps.Shortcut{Node: peer, VTEP: mac, Template: 1}
	must(t, set.Routes.Put(maps.Route{Prefix: prefix("172.246.0.0/24"), Host: 2, Shortcut: shortcut}))
	for p, host := range map[string]uint32{
		"172.245.0.0/24": 1, "172.247.0.0/24": 2, "172.247.0.128/25": 3, "10.0.0.0/8": 2,
	} {
		must(t, set.Routes.Put(maps.Route{Prefix: prefix(p), Host: host}))
	}
	must(t, set.Nodes.Put(peer, 2))
	must(t, set.Neigh.Put(0, netip.MustParseAddr("172.246.0.0"), mac))
	must(t, set.FDB.Put(1, mac, 2))
	must(t, set.Endpoints.Put(0, netip.MustParseAddr("172.245.0.2"), maps.Endpoint{Ifindex: 9, MAC: mac, Gateway: mac}))
	must(t, set.NAT.Set(maps.NATConntrack))
	must(t, datapath["routes"].Put(&bpf.DatapathRouteKey{PrefixLen: 7}, uint32(9)))
	perCPU := make([]bpf.DatapathCounter, ebpf.MustPossibleCPU())
	perCPU[0] = bpf.DatapathCounter{Packets: 3, Bytes: 294}
	perCPU[len(perCPU)-1].Packets++
	key := uint32(bpf.DatapathProgramPROGRAM_FROM_NETWORK)*uint32(bpf.DatapathReasonREASON_MAX) +
		uint32(bpf.DatapathReasonDROP_UNKNOWN_HOST)
	must(t, datapath["counters"].Put(key, perCPU))
}

func TestRealMaps(t *testing.T) {
	set, datapath := newSet(t)
	fill(t, set, datapath)
	list, err := List(set)
	must(t, err)
	all, err := ReadAll(set)
	must(t, err)
	index, err := Read(set, "route_index")
	must(t, err)
	for _, format := range Formats {
		var out bytes.Buffer
		must(t, Write(&out, format, list))
		golden(t, "real-list."+format, out.Bytes())
		out.Reset()
		must(t, WriteAll(&out, format, all))
		golden(t, "real-all."+format, out.Bytes())
	}
	var out bytes.Buffer
	must(t, Write(&out, "table", index))
	golden(t, "real-index.table", out.Bytes())
}

// TestReadEach reads every table that has a name, and no other.
func TestReadEach(t *testing.T) {
	set, _ := newSet(t)
	for _, name := range Names() {
		table, err := Read(set, name)
		if err != nil || table.Name != name {
			t.Errorf("Read(%s) = table %q, %v", name, table.Name, err)
		}
	}
	if _, err := Read(set, "none"); err == nil {
		t.Error("a table of no name was read")
	}
}
