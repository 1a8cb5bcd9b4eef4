// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// Nodes says which host has an address of the underlay.
type Nodes struct {
	Table[netip.Addr, uint32, bpf.DatapathAddr, bpf.DatapathHostIndex]
}

func newNodes(m *ebpf.Map) *Nodes {
	return &Nodes{newTable("nodes", m,
		encodeAddr, encodeHostIndex, decodeAddr, decodeHostIndex, netip.Addr.Compare)}
}

// Put says that a host, by its index in hosts, has an address.
func (n *Nodes) Put(addr netip.Addr, host uint32) error { return n.put(addr, host) }

// Delete forgets an address. One that is not there is no error.
func (n *Nodes) Delete(addr netip.Addr) error { return n.delete(addr) }

// Neigh holds the MACs behind addresses of the overlay, as etcd has them.
type Neigh struct {
	Table[AddrKey, MAC, bpf.DatapathIpKey, bpf.DatapathNeighbour]
}

func newNeigh(m *ebpf.Map) *Neigh {
	return &Neigh{newTable("neigh", m,
		encodeAddrKey, encodeNeighbour, decodeAddrKey, decodeNeighbour, compareAddrKeys)}
}

func encodeNeighbour(mac MAC) (bpf.DatapathNeighbour, error) {
	return bpf.DatapathNeighbour{Mac: bpf.DatapathMac{Byte: mac}}, nil
}

func decodeNeighbour(w bpf.DatapathNeighbour) (MAC, error) { return w.Mac.Byte, nil }

// Put says which MAC an address of a network has.
func (n *Neigh) Put(network uint32, addr netip.Addr, mac MAC) error {
	return n.put(AddrKey{network, addr}, mac)
}

// Delete forgets an address. One that is not there is no error.
func (n *Neigh) Delete(network uint32, addr netip.Addr) error {
	return n.delete(AddrKey{network, addr})
}

// FDB says which host a MAC of the overlay lives on.
type FDB struct {
	Table[FDBKey, uint32, bpf.DatapathFdbKey, bpf.DatapathHostIndex]
}

func newFDB(m *ebpf.Map) *FDB {
	return &FDB{newTable("fdb", m,
		encodeFDBKey, encodeHostIndex, decodeFDBKey, decodeHostIndex, compareFDBKeys)}
}

// Put says that a MAC of a VXLAN segment lives on a host.
func (f *FDB) Put(vni uint32, mac MAC, host uint32) error { return f.put(FDBKey{vni, mac}, host) }

// Delete forgets a MAC. One that is not there is no error.
func (f *FDB) Delete(vni uint32, mac MAC) error { return f.delete(FDBKey{vni, mac}) }

// Hosts holds all that is needed to send to a node, by host index; or, as
// templates, what many nodes have in common of that, by template number. An
// entry is not to be changed while a route points to it: a packet could see half
// of it.
type Hosts struct {
	Table[uint32, Host, uint32, bpf.DatapathHost]
}

func newHosts(m *ebpf.Map) *Hosts { return newHostArray("hosts", m, encodeHost, decodeHost) }

func newTemplates(m *ebpf.Map) *Hosts {
	return newHostArray("templates", m, encodeTemplate, decodeTemplate)
}

func newHostArray(name string, m *ebpf.Map,
	encode func(Host) (bpf.DatapathHost, error), decode func(bpf.DatapathHost) (Host, error),
) *Hosts {
	index := func(i uint32) (uint32, error) { return i, nil }
	return &Hosts{newTable(name, m, index, encode, index, decode, cmp.Compare[uint32])}
}

// Put fills an entry.
func (h *Hosts) Put(index uint32, host Host) error {
	if index == 0 {
		return h.wrap("put", index, errNoHost)
	}
	return h.put(index, host)
}

// Delete empties an entry.
func (h *Hosts) Delete(index uint32) error { return h.delete(index) }

// Get is the entry of an index, and whether there is one.
func (h *Hosts) Get(index uint32) (Host, bool, error) {
	var w bpf.DatapathHost
	if err := h.m.Lookup(&index, &w); err != nil {
		return Host{}, false, h.wrap("get", index, err)
	}
	if w == (bpf.DatapathHost{}) {
		return Host{}, false, nil
	}
	host, err := h.decodeValue(w)
	return host, err == nil, h.wrap("get", index, err)
}
