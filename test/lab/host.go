// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/loader"
)

// Uplink is the name of a host's link to the underlay.
const Uplink = "eth0"

// Host is a host of a lab.
type Host struct {
	Name       string       // "h1"
	Number     int          // 1
	NS         Namespace    // "bpfnet-lab-h1"
	Segment    int          // of the underlay, from 1
	Addr       netip.Addr   // on the underlay; the zero one where that has no IPv4
	Addr6      netip.Addr   // likewise of IPv6
	Subnet     netip.Prefix // its containers'; the zero one where they have no IPv4
	Subnet6    netip.Prefix // likewise of IPv6
	Bridge     string       // "br245"; empty without a bridge
	Dir        string       // the daemon's run directory, and its log
	Containers []*Container

	lab *Lab
}

// Gateway is the address of the bridge: its containers' next hop.
func (h *Host) Gateway() netip.Addr { return nth(h.Subnet, 1) }

// Gateway6 is the IPv6 one.
func (h *Host) Gateway6() netip.Addr { return nth(h.Subnet6, 1) }

// Node is the host's address on the underlay of a family, V4 or V6.
func (h *Host) Node(f Families) netip.Addr { return f.of(h.Addr, h.Addr6) }

// GatewayOf is the bridge's address of a family, V4 or V6.
func (h *Host) GatewayOf(f Families) netip.Addr {
	if f == V6 {
		return h.Gateway6()
	}
	return h.Gateway()
}

// SubnetOf is the containers' subnet of a family, V4 or V6.
func (h *Host) SubnetOf(f Families) netip.Prefix {
	if f == V6 {
		return h.Subnet6
	}
	return h.Subnet
}

// Container is a container of a host.
type Container struct {
	Name   string     // "c1"
	Number int        // 1
	NS     Namespace  // "bpfnet-lab-h1-c1"
	Addr   netip.Addr // of its eth0; the zero one where containers have no IPv4
	Addr6  netip.Addr // likewise of IPv6
	Veth   string     // the host's end of its link, "vethc1"
}

// In is the container's address of a family, V4 or V6.
func (c *Container) In(f Families) netip.Addr { return f.of(c.Addr, c.Addr6) }

// AddHost adds one more host with its containers to a running lab.
func (l *Lab) AddHost() (*Host, error) {
	h := l.newHost(l.nextHost())
	l.Hosts = append(l.Hosts, h)
	if err := l.save(); err != nil { // before anything is made, so that Down finds it
		return nil, err
	}
	l.progress("%s: %s, containers in %s", h.Name, joinValid(h.Addr, h.Addr6), joinValid(h.Subnet, h.Subnet6))
	if err := h.create(); err != nil {
		return nil, err
	}
	for range l.Options.Containers {
		if _, err := h.AddContainer(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (l *Lab) newHost(number int) *Host {
	name := fmt.Sprintf("h%d", number)
	h := &Host{
		Name:    name,
		Number:  number,
		NS:      Namespace(namespaceName(l.Options.Name, name)),
		Segment: segmentOf(l.Options.Underlay, number),
		Dir:     filepath.Join(l.dir(), name),
		lab:     l,
	}
	if l.Options.Outer.v4() {
		h.Addr = segmentAddr(h.Segment, hostByte(number)).Addr()
	}
	if l.Options.Outer.v6() {
		h.Addr6 = segmentAddr6(h.Segment, hostByte(number)).Addr()
	}
	if l.Options.Inner.v4() {
		h.Subnet = subnetOf(number)
	}
	if l.Options.Inner.v6() {
		h.Subnet6 = subnet6Of(number)
	}
	if l.Options.Wiring == Bridged {
		h.Bridge = fmt.Sprintf("br%d", hostByte(number))
	}
	return h
}

// joinValid are those of two addresses or prefixes that there are.
func joinValid[T interface {
	IsValid() bool
	String() string
}](all ...T) string {
	var s []string
	for _, a := range all {
		if a.IsValid() {
			s = append(s, a.String())
		}
	}
	return strings.Join(s, " and ")
}

func (l *Lab) nextHost() int {
	if len(l.Hosts) == 0 {
		return 1
	}
	return l.Hosts[len(l.Hosts)-1].Number + 1
}

// create makes the namespace, its uplink and its bridge. Forwarding is off:
// that is bpfnet's to switch on.
func (h *Host) create() error {
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return fmt.Errorf("create directory of %s: %w", h.Name, err)
	}
	if err := h.NS.create(h.lab.Options.hasIPv6()); err != nil {
		return err
	}
	// A new namespace starts with the machine's own setting.
	if err := h.NS.Do(func() error { return setSysctls("0", "net/ipv4/ip_forward") }); err != nil {
		return err
	}
	if err := h.lab.connect(h); err != nil {
		return err
	}
	return h.NS.configure(func(l *links) {
		if h.Addr.IsValid() {
			l.address(Uplink, netip.PrefixFrom(h.Addr, 24))
			l.route(Uplink, everything, segmentAddr(h.Segment, 1).Addr())
		}
		if h.Addr6.IsValid() {
			l.address(Uplink, netip.PrefixFrom(h.Addr6, 64))
			l.route(Uplink, everything6, segmentAddr6(h.Segment, 1).Addr())
		}
		if h.Bridge != "" {
			h.createBridge(l)
		}
	})
}

var (
	everything  = netip.MustParsePrefix("0.0.0.0/0")
	everything6 = netip.MustParsePrefix("::/0")
)

func (h *Host) createBridge(l *links) {
	l.bridge(h.Bridge, h.lab.Options.ContainerMTU())
	if h.Subnet.IsValid() {
		l.address(h.Bridge, netip.PrefixFrom(h.Gateway(), SubnetLen))
	}
	if h.Subnet6.IsValid() {
		l.address(h.Bridge, netip.PrefixFrom(h.Gateway6(), SubnetLen6))
	}
}

// RemoveHost takes a host out of a running lab with all that is on it; its
// daemon is killed, not asked.
func (l *Lab) RemoveHost(h *Host) error {
	err := h.KillDaemon()
	err = errors.Join(err, h.removeDatapath())
	for _, c := range h.Containers {
		err = errors.Join(err, c.NS.remove())
	}
	// The kernel takes its time to end a namespace; the wire's end has to be gone now.
	err = errors.Join(err, l.disconnect(h), h.NS.remove(), os.RemoveAll(h.Dir))
	if err != nil {
		return fmt.Errorf("remove host %s: %w", h.Name, err)
	}
	l.Hosts = slices.DeleteFunc(l.Hosts, func(o *Host) bool { return o == h })
	return l.save()
}

// removeDatapath takes the pins away that keep a host's programs and maps in
// the kernel. It runs in an empty namespace, where it meets nobody's filters.
func (h *Host) removeDatapath() error {
	return inEmptyNamespace(func() error { return loader.Cleanup(h.Dir) })
}

// calicoMAC is what Calico gives the host's end of every container's link.
var calicoMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

// AddContainer adds one more container to a host.
func (h *Host) AddContainer() (*Container, error) {
	number := 1
	if n := len(h.Containers); n > 0 {
		number = h.Containers[n-1].Number + 1
	}
	name := fmt.Sprintf("c%d", number)
	c := &Container{
		Name:   name,
		Number: number,
		NS:     Namespace(namespaceName(h.lab.Options.Name, h.Name, name)),
		Veth:   "veth" + name,
	}
	if h.Subnet.IsValid() {
		c.Addr = nth(h.Subnet, number+1)
	}
	if h.Subnet6.IsValid() {
		c.Addr6 = nth(h.Subnet6, number+1)
	}
	h.Containers = append(h.Containers, c)
	if err := h.lab.save(); err != nil {
		return nil, err
	}
	if err := c.NS.create(h.lab.Options.hasIPv6()); err != nil {
		return nil, err
	}
	wire := h.bridged
	if h.lab.Options.Wiring == PerLink {
		wire = h.perLink
	}
	return c, wire(c)
}

func (h *Host) bridged(c *Container) error {
	err := h.NS.configure(func(l *links) {
		l.veth(veth{name: c.Veth, peer: "eth0", peerNS: c.NS, mtu: h.lab.Options.ContainerMTU(), bridge: h.Bridge})
	})
	if err != nil {
		return err
	}
	return c.NS.configure(func(l *links) {
		if c.Addr.IsValid() {
			l.address("eth0", netip.PrefixFrom(c.Addr, SubnetLen))
			l.route("eth0", everything, h.Gateway())
		}
		if c.Addr6.IsValid() {
			l.address("eth0", netip.PrefixFrom(c.Addr6, SubnetLen6))
			l.route("eth0", everything6, h.Gateway6())
		}
	})
}

// perLink is Calico's wiring. The gateway's MAC is given to the container
// rather than answered by proxy ARP, which would need forwarding.
func (h *Host) perLink(c *Container) error {
	self, self6 := netip.PrefixFrom(c.Addr, 32), netip.PrefixFrom(c.Addr6, 128)
	err := h.NS.configure(func(l *links) {
		l.veth(veth{name: c.Veth, peer: "eth0", peerNS: c.NS, mtu: h.lab.Options.ContainerMTU(), hardware: calicoMAC})
		if self.IsValid() {
			l.route(c.Veth, self, netip.Addr{})
		}
		if self6.IsValid() {
			l.route(c.Veth, self6, netip.Addr{})
		}
	})
	if err != nil {
		return err
	}
	return c.NS.configure(func(l *links) {
		if self.IsValid() {
			gateway := netip.MustParseAddr(linkLocalGateway)
			l.address("eth0", self)
			l.route("eth0", netip.PrefixFrom(gateway, 32), netip.Addr{})
			l.route("eth0", everything, gateway)
			l.neighbour("eth0", gateway, calicoMAC)
		}
		if self6.IsValid() {
			gateway := netip.MustParseAddr(linkLocalGateway6)
			l.address("eth0", self6)
			l.route("eth0", everything6, gateway)
			l.neighbour("eth0", gateway, calicoMAC)
		}
	})
}

// RemoveContainer takes a container off its host.
func (h *Host) RemoveContainer(c *Container) error {
	err := h.NS.configure(func(l *links) { l.remove(c.Veth) })
	if err = errors.Join(err, c.NS.remove()); err != nil {
		return fmt.Errorf("remove container %s: %w", c.Name, err)
	}
	h.Containers = slices.DeleteFunc(h.Containers, func(o *Container) bool { return o == c })
	return h.lab.save()
}
