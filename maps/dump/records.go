// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

// sources are in the order that a dump of everything has.
var sources = []source{
	{name: "routes", title: "which host a destination belongs to",
		columns: []string{"NETWORK", "PREFIX", "HOST", "NODE"}, read: readRoutes},
	{name: "route_index", title: "the routes that are found in one step",
		columns: []string{"NETWORK", "PREFIX", "HOST", "NODE", "VTEP MAC", "TEMPLATE"}, read: readRouteIndex, partOf: "routes"},
	{name: "hosts", title: "all that is needed to send to a node",
		columns: []string{"HOST", "NODE", "NEXT HOP", "IFINDEX", "MTU", "ENCAPSULATION", "FLAGS"}, read: readHosts},
	{name: "templates", title: "what many nodes have in common of that; in their slots of route_index is the rest",
		columns: []string{"TEMPLATE", "NEXT HOP", "IFINDEX", "MTU", "ENCAPSULATION", "FLAGS"}, read: readTemplates},
	{name: "nodes", title: "which host has an address of the underlay",
		columns: []string{"NODE", "HOST"}, read: readNodes},
	{name: "neigh", title: "the MACs behind addresses of the overlay",
		columns: []string{"NETWORK", "ADDRESS", "MAC"}, read: readNeigh},
	{name: "fdb", title: "which host a MAC of the overlay lives on",
		columns: []string{"VNI", "MAC", "HOST", "NODE"}, read: readFDB},
	{name: "endpoints", title: "the containers of this node",
		columns: []string{"NETWORK", "ADDRESS", "IFINDEX", "MAC", "GATEWAY MAC"}, read: readEndpoints},
	{name: "endpoint_index", title: "the containers that are found in one step",
		columns: []string{"SLOT", "ADDRESS", "IFINDEX", "MAC", "GATEWAY MAC"}, read: readEndpointIndex, partOf: "endpoints"},
	{name: "nat", title: "who translates addresses on this node",
		columns: []string{"MODE"}, read: readNAT},
	{name: "counters", title: "packets by program and reason",
		columns: []string{"PROGRAM", "VERDICT", "REASON", "PACKETS", "BYTES"}, read: readCounters},
	{name: "events", title: "sampled drops not read before",
		columns: []string{"TIME", "PROGRAM", "VERDICT", "REASON", "COUNT", "IFINDEX", "LENGTH"}, read: readEvents},
	{name: "settings", title: "what was fixed when the programs were loaded",
		columns: []string{"SETTING", "VALUE"}, read: readSettings},
}

// hostRef is a host index and the node it stands for.
type hostRef struct {
	Host uint32     `json:"host"`
	Node netip.Addr `json:"node"` // "" where hosts has no such entry
	Self bool       `json:"self"`
}

func (h hostRef) cells() []string {
	node := h.Node.String()
	switch {
	case h.Self && h.Node.IsValid():
		node += " (this node)"
	case h.Self:
		node = "this node"
	case !h.Node.IsValid():
		node = "none: hosts has no such entry"
	}
	return []string{number(h.Host), node}
}

// hostRefs finds the node of a host index.
func hostRefs(set *maps.Set) (func(uint32) hostRef, error) {
	hosts, err := set.Hosts.All()
	return func(index uint32) hostRef {
		return hostRef{index, hosts[index].Node, index == uint32(bpf.DatapathHostIndexHOST_SELF)}
	}, err
}

type route struct {
	Network uint32       `json:"network"`
	Prefix  netip.Prefix `json:"prefix"`
	hostRef
}

func (r route) rows() [][]string {
	return [][]string{append([]string{number(r.Network), r.Prefix.String()}, r.cells()...)}
}

func readRoutes(set *maps.Set) ([]record, error) {
	host, err := hostRefs(set)
	if err != nil {
		return nil, err
	}
	entries, err := set.Routes.Entries()
	return recordsOf(entries, err, func(k maps.RouteKey, s maps.Slot) route {
		return route{k.Network, k.Prefix, host(s.Host)}
	})
}

// slot is a route with what its slot has of the host.
type slot struct {
	Network  uint32       `json:"network"`
	Prefix   netip.Prefix `json:"prefix"`
	Host     uint32       `json:"host"`
	Node     netip.Addr   `json:"node"`     // "" where it is not of IPv4: hosts has it
	VTEP     string       `json:"vtep_mac"` // "" where there is none, or hosts has it
	Template uint8        `json:"template"` // 0: none, hosts has it all
}

func (s slot) rows() [][]string {
	template, vtep := "-", "-"
	if s.Template != 0 {
		template = number(s.Template)
	}
	if s.VTEP != "" {
		vtep = s.VTEP
	}
	return [][]string{{number(s.Network), s.Prefix.String(), number(s.Host), addrText(s.Node), vtep, template}}
}

func readRouteIndex(set *maps.Set) ([]record, error) {
	entries, err := set.Routes.IndexEntries()
	return recordsOf(entries, err, func(k maps.RouteKey, s maps.Slot) slot {
		r := slot{Network: k.Network, Prefix: k.Prefix, Host: s.Host, Node: s.Node, Template: s.Template}
		if s.VTEP != (maps.MAC{}) {
			r.VTEP = macString(s.VTEP)
		}
		return r
	})
}

type node struct {
	Node netip.Addr `json:"node"`
	Host uint32     `json:"host"`
}

func (n node) rows() [][]string { return [][]string{{n.Node.String(), number(n.Host)}} }

func readNodes(set *maps.Set) ([]record, error) {
	entries, err := set.Nodes.Entries()
	return recordsOf(entries, err, func(a netip.Addr, host uint32) node { return node{a, host} })
}

type neighbour struct {
	Network uint32     `json:"network"`
	Addr    netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
}

func (n neighbour) rows() [][]string {
	return [][]string{{number(n.Network), n.Addr.String(), n.MAC}}
}

func readNeigh(set *maps.Set) ([]record, error) {
	entries, err := set.Neigh.Entries()
	return recordsOf(entries, err, func(k maps.AddrKey, mac maps.MAC) neighbour {
		return neighbour{k.Network, k.Addr, macString(mac)}
	})
}

type fdbEntry struct {
	VNI uint32 `json:"vni"`
	MAC string `json:"mac"`
	hostRef
}

func (f fdbEntry) rows() [][]string {
	return [][]string{append([]string{number(f.VNI), f.MAC}, f.cells()...)}
}

func readFDB(set *maps.Set) ([]record, error) {
	host, err := hostRefs(set)
	if err != nil {
		return nil, err
	}
	entries, err := set.FDB.Entries()
	return recordsOf(entries, err, func(k maps.FDBKey, index uint32) fdbEntry {
		return fdbEntry{k.VNI, macString(k.MAC), host(index)}
	})
}

type endpoint struct {
	Network uint32     `json:"network"`
	Addr    netip.Addr `json:"address"`
	Ifindex uint32     `json:"ifindex"`
	MAC     string     `json:"mac"`
	Gateway string     `json:"gateway_mac"`
}

func (e endpoint) rows() [][]string {
	return [][]string{{number(e.Network), e.Addr.String(), number(e.Ifindex), e.MAC, e.Gateway}}
}

func readEndpoints(set *maps.Set) ([]record, error) {
	entries, err := set.Endpoints.Entries()
	return recordsOf(entries, err, func(k maps.AddrKey, e maps.Endpoint) endpoint {
		return endpoint{k.Network, k.Addr, e.Ifindex, macString(e.MAC), macString(e.Gateway)}
	})
}

// endpointSlot is a container at its place in endpoint_index.
type endpointSlot struct {
	Slot    uint32     `json:"slot"`
	Addr    netip.Addr `json:"address"`
	Ifindex uint32     `json:"ifindex"`
	MAC     string     `json:"mac"`
	Gateway string     `json:"gateway_mac"`
}

func (e endpointSlot) rows() [][]string {
	return [][]string{{number(e.Slot), e.Addr.String(), number(e.Ifindex), e.MAC, e.Gateway}}
}

func readEndpointIndex(set *maps.Set) ([]record, error) {
	entries, err := set.Endpoints.IndexEntries()
	return recordsOf(entries, err, func(n uint32, e maps.EndpointSlot) endpointSlot {
		return endpointSlot{n, e.Addr, e.Ifindex, macString(e.MAC), macString(e.Gateway)}
	})
}

type natMode struct {
	Mode string `json:"mode"`
}

func (n natMode) rows() [][]string { return [][]string{{n.Mode}} }

func readNAT(set *maps.Set) ([]record, error) {
	mode, err := set.NAT.Get()
	return []record{natMode{mode.String()}}, err
}

type count struct {
	Program string `json:"program"`
	Verdict string `json:"verdict"`
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func (c count) rows() [][]string {
	return [][]string{{c.Program, c.Verdict, c.Reason, number(c.Packets), number(c.Bytes)}}
}

func readCounters(set *maps.Set) ([]record, error) {
	counts, err := set.Counters.Read()
	records := make([]record, len(counts))
	for i, c := range counts {
		records[i] = count(c)
	}
	return records, err
}

type event struct {
	Time     time.Time  `json:"time"`
	Program  string     `json:"program"`
	Verdict  string     `json:"verdict"`
	Reason   string     `json:"reason"`
	Count    uint64     `json:"count"`
	Ifindex  uint32     `json:"ifindex"`
	Len      uint32     `json:"length"`
	Src      netip.Addr `json:"source"` // "" where the packet was not read so far
	Dst      netip.Addr `json:"destination"`
	OuterSrc netip.Addr `json:"outer_source"`
}

func (e event) rows() [][]string {
	rows := [][]string{{e.Time.Format("15:04:05.000"), e.Program, e.Verdict, e.Reason,
		number(e.Count), number(e.Ifindex), number(e.Len)}}
	var packet []string
	if e.Src.IsValid() || e.Dst.IsValid() {
		packet = append(packet, addrText(e.Src)+" > "+addrText(e.Dst))
	}
	if e.OuterSrc.IsValid() {
		packet = append(packet, "from "+e.OuterSrc.String())
	}
	if packet != nil {
		rows = append(rows, []string{strings.Join(packet, " ")})
	}
	return rows
}

func readEvents(set *maps.Set) ([]record, error) {
	entries, err := set.Events.Take()
	return recordsOf(entries, err, func(_ int, e maps.Event) event { return event(e) })
}

// addrText is an address, or "-" where there is none.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func macString(mac maps.MAC) string { return net.HardwareAddr(mac[:]).String() }

func number[N uint8 | uint16 | uint32 | uint64](n N) string { return strconv.FormatUint(uint64(n), 10) }
