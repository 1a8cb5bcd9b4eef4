// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	stdmaps "maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// explain shows the packet, the map entries that made it, those that delivered
// it, and what was counted since before.
func (d *demo) explain(l *lab.Lab, packet lab.Packet, before []lab.Counters) error {
	if err := lab.VerifyChecksums(packet); err != nil {
		return fmt.Errorf("captured request: %w", err)
	}
	added := l.Options.Overhead()
	d.title("The first request, as captured on h1's eth0: %d bytes, %d of them added. All checksums are right.", packet.Len, added)
	d.summary(packet)
	d.hexdump(partsOf(packet, added))

	h1, h2 := l.Hosts[0], l.Hosts[1]
	from, to := h1.Containers[0].Addr, h2.Containers[0].Addr
	d.title("It was made by these entries of h1's maps (.. is what the program filled in for this packet)")
	if err := withMapsOf(h1, func(set *maps.Set) error { return d.sending(h1, set, from, to, packet) }); err != nil {
		return err
	}
	d.title("and delivered by these of h2's")
	if err := withMapsOf(h2, func(set *maps.Set) error { return d.delivering(h2, set, from, to) }); err != nil {
		return err
	}
	d.title("Packets the programs carried during the %d pings", demoPings)
	return d.counted(l, before)
}

// summary is what tcpdump would print, a line for each IP header.
func (d *demo) summary(p lab.Packet) {
	text := strings.ReplaceAll(lab.Summary(p), ": IP ", ":\nIP ")
	d.printf("  %s %s\n\n", p.Time.Format("15:04:05.000000"), strings.ReplaceAll(text, "\n", "\n    "))
}

func (d *demo) title(format string, args ...any) {
	d.printf("\n%s\n", d.paint.bold(fmt.Sprintf(format, args...)))
}

func withMapsOf(h *lab.Host, f func(*maps.Set) error) error {
	set, err := h.Maps()
	if err != nil {
		return err
	}
	return errors.Join(f(set), set.Close())
}

// sending shows what the sender's maps hold for a packet.
func (d *demo) sending(h *lab.Host, set *maps.Set, from, to netip.Addr, packet lab.Packet) error {
	if err := d.endpoint(h, set, from, "the only source address there"); err != nil {
		return err
	}
	route, host, err := routeTo(set, to)
	if err != nil {
		return err
	}
	d.entry("routes", route.Prefix, fmt.Sprintf("host %d", route.Host))
	d.entry("hosts", route.Host, fmt.Sprintf("%s by %s, MTU %d, with this outer header:",
		host.Node, linkName(h, host.Ifindex), host.MTU))
	d.template(host.Header[:host.HeaderLen], packet)
	return nil
}

// delivering shows what the receiver's maps hold for a packet.
func (d *demo) delivering(h *lab.Host, set *maps.Set, from, to netip.Addr) error {
	route, host, err := routeTo(set, from)
	if err != nil {
		return err
	}
	d.entry("routes", route.Prefix, fmt.Sprintf("host %d", route.Host))
	d.entry("hosts", route.Host, fmt.Sprintf("%s, the only outer source address for that", host.Node))
	return d.endpoint(h, set, to, "where the packet goes")
}

func (d *demo) entry(table string, key any, value string) {
	d.printf("  %-9s  %-14v → %s\n", table, key, value)
}

func (d *demo) endpoint(h *lab.Host, set *maps.Set, addr netip.Addr, meaning string) error {
	all, err := set.Endpoints.All()
	if err != nil {
		return err
	}
	for key, e := range all {
		if key.Addr == addr {
			d.entry("endpoints", addr, fmt.Sprintf("%s, MAC %s: %s", linkName(h, e.Ifindex), net.HardwareAddr(e.MAC[:]), meaning))
			return nil
		}
	}
	return fmt.Errorf("map endpoints has no %s", addr)
}

// linkName is the name that a host has for an interface.
func linkName(h *lab.Host, ifindex uint32) string {
	name := fmt.Sprintf("interface %d", ifindex)
	_ = h.NS.Do(func() error { // without a name its number does
		link, err := net.InterfaceByIndex(int(ifindex))
		if err == nil {
			name = link.Name
		}
		return err
	})
	return name
}

// routeTo is the route that an address has, and its host.
func routeTo(set *maps.Set, addr netip.Addr) (maps.Route, maps.Host, error) {
	all, err := set.Routes.All()
	if err != nil {
		return maps.Route{}, maps.Host{}, err
	}
	all = slices.DeleteFunc(all, func(r maps.Route) bool { return !r.Prefix.Contains(addr) })
	if len(all) == 0 {
		return maps.Route{}, maps.Host{}, fmt.Errorf("map routes has none to %s", addr)
	}
	route := slices.MaxFunc(all, func(a, b maps.Route) int { return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()) })
	host, ok, err := set.Hosts.Get(route.Host)
	if err == nil && !ok {
		err = fmt.Errorf("map hosts has no host %d", route.Host)
	}
	return route, host, err
}

// counted shows which counters have moved. What the programs leave to the kernel
// is not the pings': etcd's packets, and ARP.
func (d *demo) counted(l *lab.Lab, before []lab.Counters) error {
	after, err := countersOf(l)
	if err != nil {
		return err
	}
	for i, h := range l.Hosts {
		moved := after[i].Since(before[i])
		for _, key := range slices.SortedFunc(stdmaps.Keys(moved), lab.CounterKey.Compare) {
			if key.Verdict == "pass" {
				continue
			}
			d.printf("  %s  %-14s  %-7s  %-14s  %d\n", h.Name, key.Program, key.Verdict, key.Reason, moved[key])
		}
	}
	return nil
}
