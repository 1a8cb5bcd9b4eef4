// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Underlay is the network between the hosts.
type Underlay string

// The underlays a lab can have.
const (
	Flat   Underlay = "flat"   // one layer-2 segment
	Routed Underlay = "routed" // a segment for each host, a router between
)

// Wiring is how a host reaches its containers.
type Wiring string

// The wirings a lab can have.
const (
	Bridged Wiring = "bridged" // veths as ports of a bridge that holds the gateway's address
	PerLink Wiring = "perlink" // no bridge, as Calico does: a /32 in the container, a host route to its veth
)

// Options say what a lab is made of. Start from Defaults.
type Options struct {
	Name       string // small letters and digits; part of its namespaces' names
	Hosts      int
	Containers int            // on each host
	Backend    topology.Encap // decides the containers' MTU
	Dataplane  node.Dataplane // of the daemons
	Underlay   Underlay
	Wiring     Wiring
	MTU        int      // of the underlay, bytes
	Inner      Families // the containers' addresses
	Outer      Families // the underlay's addresses
	IPv6       bool     // without IPv6 addresses, too; off: then no IPv6 in any namespace, so that captures hold nothing unexpected
	Binary     string   // the bpfnet that daemons are started from
	Etcd       string   // endpoints for all daemons; empty: the first host's daemon embeds etcd

	Progress func(step string) `json:"-"` // told of each step before it is done; may be nil
}

// Defaults are two hosts with two containers each, on one segment, for vxlan.
func Defaults() Options {
	return Options{
		Name:       "lab",
		Hosts:      2,
		Containers: 2,
		Backend:    topology.EncapVXLAN,
		Dataplane:  node.EBPF,
		Underlay:   Flat,
		Wiring:     Bridged,
		MTU:        1500,
		Inner:      V4,
		Outer:      V4,
	}
}

// ContainerMTU is the largest IP packet a container may send, bytes, whatever its family.
func (o Options) ContainerMTU() int { return o.MTU - o.Overhead() }

// Overhead is the most that the backend adds to a packet, bytes.
func (o Options) Overhead() (n int) {
	for _, inner := range o.Inner.Each() {
		n = max(n, o.OverheadOf(inner))
	}
	return n
}

// OverheadOf is what the backend adds to a packet of a family, V4 or V6, bytes.
func (o Options) OverheadOf(inner Families) int {
	return o.Backend.Overhead(o.OuterOf(inner).of(netip.IPv4Unspecified(), netip.IPv6Unspecified()))
}

// OuterOf is the family of the outer header around packets of a family: the same
// where the underlay has it.
func (o Options) OuterOf(inner Families) Families {
	if o.Outer == Dual {
		return inner
	}
	return o.Outer
}

// hasIPv6 says whether the lab's namespaces have IPv6.
func (o Options) hasIPv6() bool { return o.IPv6 || o.Inner.v6() || o.Outer.v6() }

const (
	maxHosts      = 200
	maxContainers = 200 // on a host; both are bounded by the last byte of their addresses
)

// No hyphen: it separates the parts of a namespace's name.
var validName = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

func (o Options) validate() error {
	switch {
	case !validName.MatchString(o.Name):
		return fmt.Errorf("lab name %q: use 1 to 32 small letters and digits", o.Name)
	case o.Hosts < 1 || o.Hosts > maxHosts:
		return fmt.Errorf("%d hosts: a lab has 1 to %d", o.Hosts, maxHosts)
	case o.Containers < 0 || o.Containers > maxContainers:
		return fmt.Errorf("%d containers: a host has 0 to %d", o.Containers, maxContainers)
	case !slices.Contains([]topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP, topology.EncapNone}, o.Backend):
		return fmt.Errorf("backend %q: use vxlan, ipip, udp or host-gw", o.Backend)
	case !slices.Contains([]node.Dataplane{node.EBPF, node.Netlink}, o.Dataplane):
		return fmt.Errorf("dataplane %q: use ebpf or netlink", o.Dataplane)
	case !slices.Contains([]Underlay{Flat, Routed}, o.Underlay):
		return fmt.Errorf("underlay %q: use flat or routed", o.Underlay)
	case !slices.Contains([]Wiring{Bridged, PerLink}, o.Wiring):
		return fmt.Errorf("wiring %q: use bridged or perlink", o.Wiring)
	case !slices.Contains([]Families{V4, V6, Dual}, o.Inner):
		return fmt.Errorf("inner %q: use ipv4, ipv6 or dual", o.Inner)
	case !slices.Contains([]Families{V4, V6, Dual}, o.Outer):
		return fmt.Errorf("outer %q: use ipv4, ipv6 or dual", o.Outer)
	case o.MTU < 1280 || o.MTU > 65535:
		return fmt.Errorf("MTU %d: use 1280 to 65535", o.MTU)
	case o.Inner.v6() && o.ContainerMTU() < 1280:
		return fmt.Errorf("MTU %d: IPv6 containers need at least %d", o.MTU, 1280+o.Overhead())
	}
	return nil
}

// The addresses. Host 1 is 192.168.32.245 with containers in 172.245.0.0/24,
// host 2 is 192.168.32.246 with 172.246.0.0/24, and so on. Segment n of the
// underlay is 192.168.(31+n).0/24, its router .1.

// Network holds all hosts' subnets, each of SubnetLen.
var Network = netip.MustParsePrefix("172.244.0.0/14")

// SubnetLen is the prefix length of a host's subnet.
const SubnetLen = 24

const linkLocalGateway = "169.254.1.1" // Calico's: every container's next hop where there is no bridge

func segmentOf(u Underlay, host int) int {
	if u == Routed {
		return host
	}
	return 1
}

func segmentAddr(segment, last int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(31 + segment), byte(last)}), 24)
}

// hostByte is the last byte of a host's underlay address: 245, 246, …, 254, 11, 12, ….
func hostByte(host int) int {
	if host <= 10 {
		return 244 + host
	}
	return host
}

// subnetOf is a host's container subnet: 172.245, 172.246, 172.247, then 172.244.4, 172.244.5, … to stay in Network.
func subnetOf(host int) netip.Prefix {
	if host <= 3 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(244 + host), 0, 0}), SubnetLen)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 244, byte(host), 0}), SubnetLen)
}

// nth is an address of a subnet: 1 is the gateway, 2 the first container.
func nth(subnet netip.Prefix, n int) netip.Addr {
	a := subnet.Addr().AsSlice()
	a[len(a)-1] += byte(n)
	addr, _ := netip.AddrFromSlice(a) // of the length that it had
	return addr
}
