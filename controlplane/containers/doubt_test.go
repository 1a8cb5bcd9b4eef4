// SPDX-License-Identifier: Apache-2.0

package containers

import "testing"

// TestDoubt holds which changes leave open what the routes are, and which do not.
func TestDoubt(t *testing.T) {
	route, sourced, several := onLink(ipRouted, 20), onLink(ipRouted, 20), hostRoute{addr: ipA, several: hops(20, 21)}
	sourced.source = ipBridge
	byObject := route
	byObject.object = true
	behind := onLink(ipRouted, 21)
	behind.metric = 1
	tests := map[string]struct {
		events []event
		want   bool
	}{
		"a route comes and goes":              {events: []event{is(route), gone(route)}},
		"of another metric":                   {events: []event{is(route), is(behind), gone(route)}},
		"of another address":                  {events: []event{is(route), is(onLink(ipA, 20))}},
		"a second one of its metric":          {events: []event{is(route), is(onLink(ipRouted, 21))}, want: true},
		"told of twice":                       {events: []event{is(route), is(route)}, want: true},
		"gone, but it was another":            {events: []event{is(route), gone(sourced)}, want: true},
		"gone, but it never was":              {events: []event{gone(route)}},
		"its source address goes":             {events: []event{is(sourced), gone(local(1, ipBridge))}, want: true},
		"its source address goes elsewhere":   {events: []event{is(sourced), addr(20, ipBridge), gone(local(1, ipBridge))}, want: true},
		"another address goes":                {events: []event{is(sourced), addr(1, ipB), gone(local(1, ipB))}},
		"its device goes down":                {events: []event{is(route), is(down(veth(20, 0)))}},
		"its device comes under another":      {events: []event{is(route), is(veth(20, 2))}, want: true},
		"another device comes under another":  {events: []event{is(route), is(veth(11, 2))}},
		"a next hop object goes":              {events: []event{is(route), gone(nextHop{})}},
		"its next hop object goes":            {events: []event{is(byObject), gone(nextHop{})}, want: true},
		"its next hop object's carrier goes":  {events: []event{is(byObject), is(with(veth(20, 0), func(l *link) { l.carrier = false }))}, want: true},
		"another carrier goes":                {events: []event{is(byObject), is(with(veth(21, 0), func(l *link) { l.carrier = false }))}},
		"by several next hops":                {events: []event{is(several), is(veth(20, 0))}},
		"by several next hops, a device down": {events: []event{is(several), is(down(veth(20, 0)))}, want: true},
		"by several next hops, a device gone": {events: []event{is(several), gone(veth(21, 0))}, want: true},
		"by several next hops, another down":  {events: []event{is(several), is(down(veth(22, 0)))}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(subnet, nil)
			for _, e := range append(node(), test.events...) {
				m.apply(e)
			}
			if m.doubt != test.want {
				t.Errorf("in doubt: %v, want %v", m.doubt, test.want)
			}
			m.resetRoutes(newTables(subnet))
			if m.doubt || len(m.routes) > 0 {
				t.Errorf("listed again: in doubt: %v, routes %v", m.doubt, m.routes)
			}
		})
	}
}
