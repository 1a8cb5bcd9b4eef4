// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// manyPeers are peers whose paths have so many MTUs.
func manyPeers(n, mtus int) []topology.Peer {
	peers := make([]topology.Peer, n)
	for i := range peers {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(246 + i>>8), byte(i), 0}), 24)
		node := netip.AddrFrom4([4]byte{192, 168, byte(40 + i>>8), byte(i)})
		peers[i] = topology.Peer{
			Key: fmt.Sprintf("%v-24", subnet.Addr()), Subnet: subnet, Node: node, Encap: topology.EncapVXLAN,
			VTEP: topology.VTEP{MAC: topology.MAC{2, 0, 0, 1, byte(i >> 8), byte(i)}, Addr: subnet.Addr()},
			Path: topology.Path{Ifindex: 2, NextHop: node, MTU: 1000 + i%mtus},
		}
	}
	return peers
}

// TestTemplates: nodes that differ in nothing else share one, more classes than
// there is room for are served by the entries of hosts, and what nobody has goes.
func TestTemplates(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	for _, step := range []struct {
		mtus      int
		templates int // that are in the map afterwards, with those of before
		slow      int // routes without one
	}{{1, 1, 0}, {300, 255, 300 - 255}, {1, 1, 0}} {
		s := stateOf(manyPeers(300, step.mtus)...)
		must(t, d.Apply(s))
		must(t, d.Reread()) // everything is looked at
		apply(t, d, s)
		r.check(t, s)
		if n := mustGet[maps.Usage](t)(r.set.Templates.Usage()).Used; n != step.templates {
			t.Errorf("%d MTUs: %d templates, want %d", step.mtus, n, step.templates)
		}
		if slow := r.slow(t); slow != step.slow {
			t.Errorf("%d MTUs: %d routes without a template, want %d", step.mtus, slow, step.slow)
		}
	}
}

// slow counts the slots of other nodes without a template.
func (r *rig) slow(t *testing.T) (n int) {
	t.Helper()
	for _, e := range mustGet[[]maps.Entry[maps.RouteKey, maps.Slot]](t)(r.set.Routes.IndexEntries()) {
		if e.Value.Host != hostSelf && e.Value.Template == 0 {
			n++
		}
	}
	return n
}

// again looks at everything, as every minute.
func (r *rig) again(t *testing.T, d *Dataplane, s topology.State) {
	t.Helper()
	must(t, d.Reread())
	apply(t, d, s)
	r.check(t, s)
}

// TestTemplatesRunOut: a slot that found none gets one when there is room again, and is left alone before.
func TestTemplatesRunOut(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	peers := manyPeers(300, 300)
	must(t, d.Apply(stateOf(peers...)))
	for i := range peers[:250] {
		peers[i].Path.MTU = 1000
	}
	s := stateOf(peers...)
	apply(t, d, s)
	r.again(t, d, s) // makes room
	r.again(t, d, s)
	if slow := r.slow(t); slow != 0 {
		t.Errorf("%d routes without a template, want none", slow)
	}

	full := newRig(t, nil)
	s = stateOf(manyPeers(300, 300)...)
	must(t, full.dataplane(t).Apply(s))
	full.freeze(t)
	must(t, full.dataplane(t).Apply(s)) // writes nothing
}

// rewrite changes the slots of other nodes.
func (r *rig) rewrite(t *testing.T, change func(*maps.Shortcut)) {
	t.Helper()
	for _, e := range mustGet[[]maps.Entry[maps.RouteKey, maps.Slot]](t)(r.set.Routes.IndexEntries()) {
		if e.Value.Host != hostSelf {
			change(&e.Value.Shortcut)
			must(t, r.set.Routes.Put(maps.Route{Prefix: e.Key.Prefix, Host: e.Value.Host, Shortcut: e.Value.Shortcut}))
		}
	}
}

// asAnother has templates and slots as a build that splits host entries otherwise left them.
func (r *rig) asAnother(t *testing.T) {
	t.Helper()
	template, _, err := r.set.Templates.Get(templateFirst)
	must(t, err)
	template.NextHop = netip.MustParseAddr("192.168.40.0")
	must(t, r.set.Templates.Put(9, template))
	r.rewrite(t, func(s *maps.Shortcut) { s.Template = 9 })
	must(t, r.set.Templates.Delete(templateFirst))
}

// TestSlotsMended: whatever slots and templates held, the minute's look and a restart mend it, and then rest.
func TestSlotsMended(t *testing.T) {
	harms := map[string]func(*testing.T, *rig){
		"another build": func(t *testing.T, r *rig) { r.asAnother(t) },
		"template cleared": func(t *testing.T, r *rig) {
			must(t, r.set.Templates.Delete(templateFirst))
		},
		"template changed": func(t *testing.T, r *rig) {
			template, _, err := r.set.Templates.Get(templateFirst)
			must(t, err)
			template.MTU--
			must(t, r.set.Templates.Put(templateFirst, template))
		},
		"template twice": func(t *testing.T, r *rig) {
			template, _, err := r.set.Templates.Get(templateFirst)
			must(t, err)
			must(t, r.set.Templates.Put(9, template))
		},
		"slots' template": func(t *testing.T, r *rig) { r.rewrite(t, func(s *maps.Shortcut) { s.Template = 9 }) },
		"no template":     func(t *testing.T, r *rig) { r.rewrite(t, func(s *maps.Shortcut) { s.Template = 0 }) },
		"slots' MAC":      func(t *testing.T, r *rig) { r.rewrite(t, func(s *maps.Shortcut) { s.VTEP[5]++ }) },
		"slots' node":     func(t *testing.T, r *rig) { r.rewrite(t, func(s *maps.Shortcut) { s.Node = s.Node.Next() }) },
		"slots' tag": func(t *testing.T, r *rig) {
			var slot bpf.DatapathRouteSlot
			index := r.coll.Maps["route_index"]
			for i := range index.MaxEntries() {
				must(t, index.Lookup(i, &slot))
				if slot.Template != 0 {
					slot.Tag++
					must(t, index.Put(i, slot))
				}
			}
		},
	}
	for name, harm := range harms {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			d := r.dataplane(t)
			s := stateOf(manyPeers(3, 1)...)
			must(t, d.Apply(s))
			harm(t, r)
			r.again(t, d, s)
			s = stateOf(manyPeers(4, 1)...)
			must(t, d.Apply(s)) // one more takes what is there
			used := mustGet[maps.Usage](t)(r.set.Templates.Usage()).Used
			if slow := r.slow(t); slow != 0 || used != 1 {
				t.Errorf("%d routes without a template, %d templates, want 0 and 1", slow, used)
			}
			if name == "template cleared" {
				r.rewrite(t, func(s *maps.Shortcut) {
					if s.Template == templateFirst {
						t.Error("a template that slots name was written in place")
					}
				})
			}
			r.freeze(t)
			r.again(t, d, s)
			must(t, r.dataplane(t).Apply(s))
		})
	}
}

// TestNamedTemplateStays where the slots that name it cannot be written.
func TestNamedTemplateStays(t *testing.T) {
	r := newRig(t, nil)
	d := r.dataplane(t)
	s := stateOf(manyPeers(3, 1)...)
	must(t, d.Apply(s))
	r.asAnother(t)
	r.freeze(t, "route_index")
	must(t, d.Reread())
	if err := d.Apply(s); !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v of slots that cannot be written, want EPERM", err)
	}
	if _, ok, err := r.set.Templates.Get(9); err != nil || !ok {
		t.Errorf("a template that slots name is gone (error %v)", err)
	}
}

// TestTemplateNotWritten: only where there is no room the route goes without.
func TestTemplateNotWritten(t *testing.T) {
	r := newRig(t, nil)
	r.freeze(t, "templates")
	err := r.dataplane(t).Apply(stateOf(manyPeers(3, 1)...))
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "in map templates") {
		t.Errorf("error %v does not tell of the map", err)
	}
}
