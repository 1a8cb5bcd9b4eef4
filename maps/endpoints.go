// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// Endpoint is the way to a container of this node.
type Endpoint struct {
	Ifindex uint32 // host end of its veth
	MAC     MAC    // of the container's end
	Gateway MAC    // what the container resolves its gateway to
}

// EndpointSlot is a container in endpoint_index.
type EndpointSlot struct {
	Addr netip.Addr // the zero Addr: nobody finds it
	Endpoint
}

// Endpoints holds the containers of this node: all of them in a hash, and in
// front of it an array in which those of the programs' network have a slot
// each, by the low bits of the address. What finds another's address in its
// slot is looked for in the hash. A slot loses its address before the hash is
// changed and gets it after, so wherever a writer is killed the array says what the
// hash says, or nothing.
type Endpoints struct {
	Table[AddrKey, Endpoint, bpf.DatapathIpKey, bpf.DatapathEndpoint]
	index   Table[uint32, EndpointSlot, uint32, bpf.DatapathEndpointSlot]
	network uint32
}

func newEndpoints(m, index *ebpf.Map, network uint32) *Endpoints {
	slot := func(n uint32) (uint32, error) { return n, nil }
	return &Endpoints{
		newTable("endpoints", m,
			encodeAddrKey, encodeEndpoint, decodeAddrKey, decodeEndpoint, compareAddrKeys),
		newTable("endpoint_index", index,
			slot, encodeEndpointSlot, slot, decodeEndpointSlot, cmp.Compare[uint32]),
		network,
	}
}

// Put says how to reach a container's address.
func (e *Endpoints) Put(network uint32, addr netip.Addr, endpoint Endpoint) error {
	if network != e.network || !addr.IsValid() {
		return e.put(AddrKey{network, addr}, endpoint)
	}
	n, have, err := e.slot(addr)
	if err == nil && have.Addr == addr && have.Endpoint != endpoint {
		err = e.hide(n, have)
	}
	if err != nil {
		return err
	}
	if err := e.put(AddrKey{network, addr}, endpoint); err != nil {
		return err
	}
	return e.fill(EndpointSlot{addr, endpoint})
}

// hide writes a slot without its address. Where that goes, a packet that has just found it may still be about to read the
// rest; where it is yet to come, a packet takes the rest as soon as it sees it.
func (e *Endpoints) hide(n uint32, slot EndpointSlot) error {
	return e.index.put(n, EndpointSlot{Endpoint: slot.Endpoint})
}

// fill writes a slot, if no other address has it.
func (e *Endpoints) fill(to EndpointSlot) error {
	n, have, err := e.slot(to.Addr)
	if err != nil || have == to || have.Addr.IsValid() && have.Addr != to.Addr {
		return err
	}
	if err := e.hide(n, to); err != nil {
		return err
	}
	return e.index.put(n, to)
}

// Delete forgets an address. One that is not there is no error.
func (e *Endpoints) Delete(network uint32, addr netip.Addr) error {
	key := AddrKey{network, addr}
	if network != e.network || !addr.IsValid() {
		return e.delete(key)
	}
	n, have, err := e.slot(addr)
	if err != nil {
		return err
	}
	if have.Addr != addr {
		return e.delete(key)
	}
	if err := e.hide(n, have); err != nil {
		return err
	}
	if err := e.delete(key); err != nil {
		return err
	}
	return e.index.delete(n)
}

// Reindex makes the index say what the hash does: of two writes that belong
// together a killed daemon may have made one, and each of the maps may be new.
// It returns what the hash says, as All does.
func (e *Endpoints) Reindex() (map[AddrKey]Endpoint, error) {
	all, err := e.All()
	if err != nil {
		return nil, err
	}
	slots, err := e.index.Entries()
	if err != nil {
		return nil, err
	}
	indexed := make(map[netip.Addr]bool, len(slots))
	for _, s := range slots {
		to, ok := all[AddrKey{e.network, s.Value.Addr}]
		if s.Bad == nil && ok && to == s.Value.Endpoint && e.slotOf(s.Value.Addr) == s.Key {
			indexed[s.Value.Addr] = true
			continue
		}
		n := s.Key
		if s.Bad != nil {
			n = binary.NativeEndian.Uint32(s.Bad.Key)
		}
		if err := e.index.delete(n); err != nil {
			return nil, err
		}
	}
	for key, to := range all {
		if key.Network != e.network || indexed[key.Addr] {
			continue
		}
		if err := e.fill(EndpointSlot{key.Addr, to}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// IndexEntries is the filled slots of the index, in order.
func (e *Endpoints) IndexEntries() ([]Entry[uint32, EndpointSlot], error) { return e.index.Entries() }

// IndexUsage counts the filled slots of the index.
func (e *Endpoints) IndexUsage() (Usage, error) { return e.index.Usage() }

// slotOf is an address's slot, as endpoint_slot in bpf/include/route.h has it: IPv4's come first.
func (e *Endpoints) slotOf(a netip.Addr) uint32 {
	family := e.index.Max() / 2
	low := a.As16()
	n := binary.BigEndian.Uint32(low[12:]) % family
	if a.Is6() {
		n += family
	}
	return n
}

// slot is an address's slot and what it has; nobody's where that does not decode.
func (e *Endpoints) slot(a netip.Addr) (n uint32, has EndpointSlot, err error) {
	n = e.slotOf(a)
	var w bpf.DatapathEndpointSlot
	if err = e.index.m.Lookup(&n, &w); err != nil {
		return n, has, e.index.wrap("get", n, err)
	}
	if has, err = decodeEndpointSlot(w); err != nil {
		return n, EndpointSlot{}, nil //nolint:nilerr // no packet finds it, and it may be written over
	}
	return n, has, nil
}

func encodeEndpoint(e Endpoint) (bpf.DatapathEndpoint, error) {
	return bpf.DatapathEndpoint{
		Ifindex: e.Ifindex,
		Mac:     bpf.DatapathMac{Byte: e.MAC},
		Gateway: bpf.DatapathMac{Byte: e.Gateway},
	}, nil
}

func decodeEndpoint(w bpf.DatapathEndpoint) (Endpoint, error) {
	return Endpoint{Ifindex: w.Ifindex, MAC: w.Mac.Byte, Gateway: w.Gateway.Byte}, nil
}

func encodeEndpointSlot(s EndpointSlot) (w bpf.DatapathEndpointSlot, err error) {
	if s.Addr.IsValid() {
		w.Addr, err = encodeAddr(s.Addr)
	}
	if err == nil {
		w.Endpoint, err = encodeEndpoint(s.Endpoint)
	}
	return w, err
}

func decodeEndpointSlot(w bpf.DatapathEndpointSlot) (s EndpointSlot, err error) {
	if s.Addr, err = decodeAddr(w.Addr); err == nil {
		s.Endpoint, err = decodeEndpoint(w.Endpoint)
	}
	return s, err
}
