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
	Addr       netip.Addr   // on the underlay
	Subnet     netip.Prefix // its containers'
	Bridge     string       // "br245"; empty without a bridge
	Dir        string       // the daemon's run directory, and its log
	Containers []*Container

	lab *Lab
}

// Gateway is the address of the bridge: its containers' next hop.
func (h *Host) Gateway() netip.Addr { return nth(h.Subnet, 1) }

// Container is a container of a host.
type Container struct {
	Name   string     // "c1"
	Number int        // 1
	NS     Namespace  // "bpfnet-lab-h1-c1"
	Addr   netip.Addr // of its eth0
	Veth   string     // the host's end of its link, "vethc1"
}

// AddHost adds one more host with its containers to a running lab.
func (l *Lab) AddHost() (*Host, error) {
	h := l.newHost(l.nextHost())
	l.Hosts = append(l.Hosts, h)
	if err := l.save(); err != nil { // before anything is made, so that Down finds it
		return nil, err
	}
	l.progress("%s: %s, containers in %s", h.Name, h.Addr, h.Subnet)
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
		Subnet:  subnetOf(number),
		Dir:     filepath.Join(l.dir(), name),
		lab:     l,
	}
	h.Addr = segmentAddr(h.Segment, hostByte(number)).Addr()
	if l.Options.Wiring == Bridged {
		h.Bridge = fmt.Sprintf("br%d", hostByte(number))
	}
	return h
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
	if err := h.NS.create(h.lab.Options.IPv6); err != nil {
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
		l.address(Uplink, netip.PrefixFrom(h.Addr, 24))
		l.route(Uplink, netip.MustParsePrefix("0.0.0.0/0"), segmentAddr(h.Segment, 1).Addr())
		if h.Bridge != "" {
			l.bridge(h.Bridge, h.lab.Options.ContainerMTU())
			l.address(h.Bridge, netip.PrefixFrom(h.Gateway(), SubnetLen))
		}
	})
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
		Addr:   nth(h.Subnet, number+1),
		Veth:   "veth" + name,
	}
	h.Containers = append(h.Containers, c)
	if err := h.lab.save(); err != nil {
		return nil, err
	}
	if err := c.NS.create(h.lab.Options.IPv6); err != nil {
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
		l.address("eth0", netip.PrefixFrom(c.Addr, SubnetLen))
		l.route("eth0", netip.MustParsePrefix("0.0.0.0/0"), h.Gateway())
	})
}

// perLink is Calico's wiring. The gateway's MAC is given to the container
// rather than answered by proxy ARP, which would need forwarding.
func (h *Host) perLink(c *Container) error {
	self := netip.PrefixFrom(c.Addr, 32)
	err := h.NS.configure(func(l *links) {
		l.veth(veth{name: c.Veth, peer: "eth0", peerNS: c.NS, mtu: h.lab.Options.ContainerMTU(), hardware: calicoMAC})
		l.route(c.Veth, self, netip.Addr{})
	})
	if err != nil {
		return err
	}
	gateway := netip.MustParseAddr(linkLocalGateway)
	return c.NS.configure(func(l *links) {
		l.address("eth0", self)
		l.route("eth0", netip.PrefixFrom(gateway, 32), netip.Addr{})
		l.route("eth0", netip.MustParsePrefix("0.0.0.0/0"), gateway)
		l.neighbour("eth0", gateway, calicoMAC)
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
