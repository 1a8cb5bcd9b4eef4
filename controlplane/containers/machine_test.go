// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The node that the tests start from: bridge 1 with the subnet's address and
// ports 10 and 11, a vxlan port 12, a routed veth 20, and bridge 2 of others.
var (
	subnet = netip.MustParsePrefix("172.245.0.0/24")

	ipA      = netip.MustParseAddr("172.245.0.2")
	ipB      = netip.MustParseAddr("172.245.0.3")
	ipRouted = netip.MustParseAddr("172.245.0.5")
	ipBridge = netip.MustParseAddr("172.245.0.1")

	macA      = topology.MAC{0x02, 0, 0, 0, 0, 0xa}
	macB      = topology.MAC{0x02, 0, 0, 0, 0, 0xb}
	macBridge = topology.MAC{0x02, 0, 0, 0, 0, 0x1}
	macHost   = topology.MAC{0x02, 0, 0, 0, 0, 0x20} // host end of the routed veth
	macLow    = topology.MAC{0x02}
)

func bridge(ifindex int, mac topology.MAC) link {
	return link{ifindex: ifindex, name: fmt.Sprint("br", ifindex), kind: "bridge", mac: mac, up: true, carrier: true}
}

func veth(ifindex, master int) link {
	return link{ifindex: ifindex, name: fmt.Sprint("veth", ifindex), kind: "veth", mac: macHost,
		master: master, up: true, carrier: true, away: true}
}

func with(l link, change func(*link)) link {
	change(&l)
	return l
}

func down(l link) link      { l.up, l.carrier = false, false; return l }
func noCarrier(l link) link { l.carrier = false; return l }

func is(record any) event                  { return event{record: record} }
func gone(record any) event                { return event{gone: true, record: record} }
func addr(dev int, a netip.Addr) event     { return is(local(dev, a)) }
func fdb(mac topology.MAC, p int) event    { return is(fdbEntry{1, mac, p}) }
func fdbAge(mac topology.MAC, p int) event { return gone(fdbEntry{1, mac, p}) }
func local(dev int, a netip.Addr) localAddr {
	return localAddr{ifindex: dev, addr: a, prefix: netip.PrefixFrom(a, 24)}
}

// hops are the devices of a route by several next hops.
func hops(devs ...uint32) (all ifindexes) {
	for _, d := range devs {
		all += ifindexes(binary.NativeEndian.AppendUint32(nil, d))
	}
	return all
}

func onLink(a netip.Addr, dev int) hostRoute {
	return hostRoute{addr: a, ifindex: dev, onLink: true}
}

func arp(dev int, a netip.Addr, mac topology.MAC) event {
	return is(neighbour{dev, a, mac, unix.NUD_REACHABLE})
}

func arpAge(dev int, a netip.Addr, mac topology.MAC) event {
	return gone(neighbour{dev, a, mac, unix.NUD_STALE})
}

func arpFailed(dev int, a netip.Addr) event {
	return is(neighbour{ifindex: dev, addr: a, state: unix.NUD_FAILED})
}

func node() []event {
	return []event{
		is(bridge(1, macBridge)), addr(1, ipBridge),
		is(veth(10, 1)), is(veth(11, 1)),
		is(link{ifindex: 12, name: "vxlan0", kind: "vxlan", master: 1, up: true, carrier: true}),
		is(veth(20, 0)),
		is(bridge(2, topology.MAC{0x02, 0, 0, 0, 0, 0x2})),
	}
}

func bridgedA() Endpoint { return Endpoint{Addr: ipA, Ifindex: 10, MAC: macA, Gateway: macBridge} }
func bridgedB() Endpoint { return Endpoint{Addr: ipB, Ifindex: 11, MAC: macB, Gateway: macBridge} }
func routed() Endpoint {
	return Endpoint{Addr: ipRouted, Ifindex: 20, MAC: macA, Gateway: macHost}
}

func TestEndpoints(t *testing.T) {
	learnedA := []event{fdb(macA, 10), arp(1, ipA, macA)}
	learnedRouted := []event{is(onLink(ipRouted, 20)), arp(20, ipRouted, macA)}
	lowered, forgot := is(bridge(1, macLow)), arpAge(1, ipA, macA)
	vethChanged := is(with(veth(20, 0), func(l *link) { l.mac = macLow }))

	tests := map[string]struct {
		before, events []event
		ignore         []string
		want           []Endpoint
	}{
		// Learning.
		"neighbour then FDB":       {events: []event{arp(1, ipA, macA), fdb(macA, 10)}, want: []Endpoint{bridgedA()}},
		"FDB then neighbour":       {events: learnedA, want: []Endpoint{bridgedA()}},
		"two containers":           {before: learnedA, events: []event{arp(1, ipB, macB), fdb(macB, 11)}, want: []Endpoint{bridgedA(), bridgedB()}},
		"two addresses of one MAC": {before: learnedA, events: []event{arp(1, ipB, macA)}, want: []Endpoint{bridgedA(), {ipB, 10, macA, macBridge}}},
		"no FDB entry":             {events: []event{arp(1, ipA, macA)}},
		"no neighbour":             {events: []event{fdb(macA, 10)}},
		"route and neighbour":      {events: learnedRouted, want: []Endpoint{routed()}},
		"neighbour then route":     {events: []event{arp(20, ipRouted, macA), is(onLink(ipRouted, 20))}, want: []Endpoint{routed()}},
		"route only":               {events: []event{is(onLink(ipRouted, 20))}},
		"neighbour of no route":    {events: []event{arp(20, ipRouted, macA)}},
		"one of two VLANs' entries goes": {events: []event{fdb(macA, 10), fdb(macA, 11), fdbAge(macA, 10), arp(1, ipA, macA)},
			want: []Endpoint{{ipA, 11, macA, macBridge}}},
		"both ends of the veth on the host": {events: append([]event{is(with(veth(10, 1), func(l *link) { l.away = false }))}, learnedA...)},
		"neighbour still asked for":         {events: []event{fdb(macA, 10), is(neighbour{1, ipA, topology.MAC{}, unix.NUD_INCOMPLETE})}},

		// What is no container.
		"own address":             {events: []event{fdb(macA, 10), arp(1, ipBridge, macA)}},
		"own address, other link": {before: learnedA, events: []event{addr(20, ipA)}},
		"outside the subnet":      {events: []event{fdb(macA, 10), arp(1, netip.MustParseAddr("172.246.0.2"), macA)}},
		"bridge's own MAC":        {events: []event{fdb(macBridge, 10), arp(1, ipA, macBridge)}},
		"local FDB entry":         {before: learnedA, events: []event{fdb(macA, 0)}},
		"multicast MAC":           {events: []event{fdb(topology.MAC{1, 0, 0x5e}, 10), arp(1, ipA, topology.MAC{1, 0, 0x5e})}},
		"broadcast MAC": {events: []event{
			fdb(topology.MAC{255, 255, 255, 255, 255, 255}, 10), arp(1, ipA, topology.MAC{255, 255, 255, 255, 255, 255})}},
		"behind a vxlan port":        {events: []event{fdb(macA, 12), arp(1, ipA, macA)}},
		"behind an ignored veth":     {before: learnedA, ignore: []string{"veth10"}},
		"behind an unknown port":     {events: []event{fdb(macA, 99), arp(1, ipA, macA)}},
		"on another bridge":          {events: []event{is(veth(10, 2)), is(fdbEntry{2, macA, 10}), arp(2, ipA, macA)}},
		"on an ignored bridge":       {before: learnedA, ignore: []string{"br1"}},
		"routed through a gateway":   {before: learnedA, events: []event{is(hostRoute{addr: ipA, ifindex: 20})}},
		"routed to its own host end": {events: []event{is(onLink(ipRouted, 20)), arp(20, ipRouted, macHost)}},
		"routed elsewhere":           {before: learnedA, events: []event{is(onLink(ipA, 12))}},

		// Aging is no reason.
		"FDB entry aged":           {before: learnedA, events: []event{fdbAge(macA, 10)}, want: []Endpoint{bridgedA()}},
		"neighbour aged":           {before: learnedA, events: []event{arpAge(1, ipA, macA)}, want: []Endpoint{bridgedA()}},
		"both aged":                {before: learnedA, events: []event{fdbAge(macA, 10), arpAge(1, ipA, macA)}, want: []Endpoint{bridgedA()}},
		"both aged, then asked":    {before: learnedA, events: []event{fdbAge(macA, 10), arpAge(1, ipA, macA), is(neighbour{1, ipA, topology.MAC{}, unix.NUD_INCOMPLETE})}, want: []Endpoint{bridgedA()}},
		"routed neighbour aged":    {before: learnedRouted, events: []event{arpAge(20, ipRouted, macA)}, want: []Endpoint{routed()}},
		"aged before it was known": {events: []event{fdb(macA, 10), fdbAge(macA, 10), arp(1, ipA, macA)}},

		// Reasons to go.
		"neighbour failed":           {before: learnedA, events: []event{arpFailed(1, ipA)}},
		"neighbour failed and gone":  {before: learnedA, events: []event{arpFailed(1, ipA), gone(neighbour{1, ipA, topology.MAC{}, unix.NUD_FAILED})}},
		"failed after aging":         {before: learnedA, events: []event{arpAge(1, ipA, macA), fdbAge(macA, 10), arpFailed(1, ipA)}},
		"failed, then back":          {before: learnedA, events: []event{arpFailed(1, ipA), arp(1, ipA, macA)}, want: []Endpoint{bridgedA()}},
		"routed neighbour failed":    {before: learnedRouted, events: []event{arpFailed(20, ipRouted)}},
		"link gone":                  {before: learnedA, events: []event{gone(veth(10, 1))}},
		"link left the bridge":       {before: learnedA, events: []event{is(veth(10, 0))}},
		"link moved to other bridge": {before: learnedA, events: []event{is(veth(10, 2))}},
		"link down":                  {before: learnedA, events: []event{is(down(veth(10, 1)))}},
		"container's end down":       {before: learnedA, events: []event{is(noCarrier(veth(10, 1)))}},
		"down and up, kernel forgot": {before: learnedA, events: []event{is(noCarrier(veth(10, 1))), fdbAge(macA, 10), is(veth(10, 1))}},
		"down and up, kernel knows":  {before: learnedA, events: []event{is(noCarrier(veth(10, 1))), is(veth(10, 1))}, want: []Endpoint{bridgedA()}},
		"bridge down":                {before: learnedA, events: []event{is(down(bridge(1, macBridge)))}},
		"bridge gone":                {before: learnedA, events: []event{gone(bridge(1, macBridge))}},
		"bridge lost its address":    {before: learnedA, events: []event{gone(local(1, ipBridge))}},
		"routed link gone":           {before: learnedRouted, events: []event{gone(veth(20, 0))}},
		"routed link down and up":    {before: learnedRouted, events: []event{is(down(veth(20, 0))), is(veth(20, 0))}},
		"route gone":                 {before: learnedRouted, events: []event{gone(onLink(ipRouted, 20))}},
		"last address off routed veth": {before: append(learnedRouted, addr(20, netip.MustParseAddr("169.254.1.1"))),
			events: []event{gone(local(20, netip.MustParseAddr("169.254.1.1")))}},
		"last address, never told of": {before: learnedRouted, events: []event{gone(local(20, ipB))}},
		"address stays in another prefix": {before: append(learnedRouted, addr(20, ipB), is(localAddr{20, ipB, netip.PrefixFrom(ipB, 32)})),
			events: []event{gone(local(20, ipB))}, want: []Endpoint{routed()}},
		"routed link down and up, scope host": {
			before: []event{is(hostRoute{addr: ipRouted, ifindex: 20, onLink: true, lasting: true}), arp(20, ipRouted, macA)},
			events: []event{is(down(veth(20, 0))), is(veth(20, 0))}, want: []Endpoint{routed()}},
		"aged entries do not come back with the link": {before: learnedA,
			events: []event{fdbAge(macA, 10), arpAge(1, ipA, macA), is(noCarrier(veth(10, 1))), is(veth(10, 1))}},

		// Moving.
		"another MAC":                 {before: learnedA, events: []event{fdb(macB, 11), arp(1, ipA, macB)}, want: []Endpoint{{ipA, 11, macB, macBridge}}},
		"another MAC, port unknown":   {before: learnedA, events: []event{arp(1, ipA, macB)}},
		"MAC on another port":         {before: learnedA, events: []event{fdb(macA, 11)}, want: []Endpoint{{ipA, 11, macA, macBridge}}},
		"aged, then on another port":  {before: learnedA, events: []event{fdbAge(macA, 10), arpAge(1, ipA, macA), fdb(macA, 11)}, want: []Endpoint{{ipA, 11, macA, macBridge}}},
		"MAC moved to a vxlan port":   {before: learnedA, events: []event{fdb(macA, 12)}},
		"old port ages after a move":  {before: learnedA, events: []event{fdb(macA, 11), fdbAge(macA, 10)}, want: []Endpoint{{ipA, 11, macA, macBridge}}},
		"address passed on, new link": {before: learnedA, events: []event{gone(veth(10, 1)), fdb(macB, 11), arp(1, ipA, macB)}, want: []Endpoint{{ipA, 11, macB, macBridge}}},
		"from bridge to host route":   {before: learnedA, events: []event{is(onLink(ipA, 20)), arp(20, ipA, macB)}, want: []Endpoint{{ipA, 20, macB, macHost}}},
		"from host route to bridge": {before: []event{is(onLink(ipA, 20)), arp(20, ipA, macB)},
			events: append([]event{gone(onLink(ipA, 20))}, learnedA...), want: []Endpoint{bridgedA()}},
		"lower metric wins": {before: []event{is(hostRoute{addr: ipA, ifindex: 20, metric: 9, onLink: true}), arp(20, ipA, macB), is(veth(21, 0)), arp(21, ipA, macA)},
			events: []event{is(onLink(ipA, 21))}, want: []Endpoint{{ipA, 21, macA, macHost}}},
		"higher metric takes over": {before: []event{is(hostRoute{addr: ipA, ifindex: 20, metric: 9, onLink: true}), arp(20, ipA, macB), is(veth(21, 0)), arp(21, ipA, macA), is(onLink(ipA, 21))},
			events: []event{gone(onLink(ipA, 21))}, want: []Endpoint{{ipA, 20, macB, macHost}}},
		"two bridges, the newest wins": {before: append(learnedA, addr(2, netip.MustParseAddr("172.245.0.129")), is(veth(21, 2))),
			events: []event{is(fdbEntry{2, macB, 21}), arp(2, ipA, macB)}, want: []Endpoint{{ipA, 21, macB, topology.MAC{0x02, 0, 0, 0, 0, 0x2}}}},

		// The gateway.
		"bridge's MAC changed":                 {before: learnedA, events: []event{lowered}, want: []Endpoint{bridgedA()}},
		"bridge's MAC changed, kernel forgot":  {before: learnedA, events: []event{lowered, forgot}, want: []Endpoint{bridgedA()}},
		"bridge's MAC changed, told":           {before: learnedA, events: []event{lowered, forgot, arp(1, ipA, macA)}, want: []Endpoint{{ipA, 10, macA, macLow}}},
		"kernel forgot, bridge's MAC, told":    {before: learnedA, events: []event{forgot, lowered, arp(1, ipA, macA)}, want: []Endpoint{{ipA, 10, macA, macLow}}},
		"told before the kernel's notice":      {before: learnedA, events: []event{lowered, arp(1, ipA, macA)}, want: []Endpoint{{ipA, 10, macA, macLow}}},
		"told, then aged":                      {before: learnedA, events: []event{lowered, forgot, arp(1, ipA, macA), forgot}, want: []Endpoint{{ipA, 10, macA, macLow}}},
		"bridge's MAC changed, nobody answers": {before: learnedA, events: []event{lowered, forgot, arpFailed(1, ipA)}},
		"bridge's MAC changed back":            {before: learnedA, events: []event{lowered, forgot, is(bridge(1, macBridge))}, want: []Endpoint{bridgedA()}},
		"bridge's MAC changed, told, and back": {before: learnedA, events: []event{lowered, forgot, arp(1, ipA, macA), is(bridge(1, macBridge)), forgot}, want: []Endpoint{{ipA, 10, macA, macLow}}},
		"found since the bridge's MAC changed": {events: append([]event{lowered}, learnedA...), want: []Endpoint{{ipA, 10, macA, macLow}}},
		"moved since the bridge's MAC changed": {before: learnedA, events: []event{lowered, forgot, fdb(macB, 11), arp(1, ipA, macB)}, want: []Endpoint{{ipA, 11, macB, macLow}}},
		"another bridge of the same number":    {before: learnedA, events: append([]event{gone(bridge(1, macBridge)), is(bridge(1, macLow)), addr(1, ipBridge)}, learnedA...), want: []Endpoint{{ipA, 10, macA, macLow}}},
		"veth's MAC changed":                   {before: learnedRouted, events: []event{vethChanged}, want: []Endpoint{routed()}},
		"veth's MAC changed, told": {before: learnedRouted, events: []event{vethChanged, arpAge(20, ipRouted, macA), arp(20, ipRouted, macA)},
			want: []Endpoint{{ipRouted, 20, macA, macLow}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(subnet, test.ignore)
			for _, e := range append(append(node(), test.before...), test.events...) {
				m.apply(e)
			}
			if diff := cmp.Diff(test.want, stateOf(m).Endpoints, compare...); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

var compare = []cmp.Option{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestLinks(t *testing.T) {
	ports := []Link{{10, "veth10"}, {11, "veth11"}}
	tests := map[string]struct {
		events []event
		ignore []string
		want   []Link
	}{
		"ports of the node's bridge": {want: ports},
		"a routed veth":              {events: []event{is(onLink(ipRouted, 20))}, want: append(ports, Link{20, "veth20"})},
		"its route gone":             {events: []event{is(onLink(ipRouted, 20)), gone(onLink(ipRouted, 20))}, want: ports},
		"a route outside the subnet": {events: []event{is(onLink(netip.MustParseAddr("10.0.0.1"), 20))}, want: ports},
		"a route through a gateway":  {events: []event{is(hostRoute{addr: ipRouted, ifindex: 20})}, want: ports},
		"a link that is down":        {events: []event{is(down(veth(11, 1)))}, want: ports},
		"a link gone":                {events: []event{gone(veth(11, 1))}, want: ports[:1]},
		"a link renamed":             {events: []event{is(with(veth(11, 1), func(l *link) { l.name = "c2" }))}, want: []Link{{10, "veth10"}, {11, "c2"}}},
		"ignored":                    {ignore: []string{"veth11"}, want: ports[:1]},
		"bridge ignored":             {ignore: []string{"br1"}},
		"bridge without address":     {events: []event{gone(local(1, ipBridge))}},
		"a second bridge":            {events: []event{is(veth(21, 2)), addr(2, ipB)}, want: append(ports, Link{21, "veth21"})},
		"an address outside":         {events: []event{is(veth(21, 2)), addr(2, netip.MustParseAddr("10.0.0.1"))}, want: ports},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(subnet, test.ignore)
			for _, e := range append(node(), test.events...) {
				m.apply(e)
			}
			if diff := cmp.Diff(test.want, stateOf(m).Links, compare...); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLinkGoneLeavesNothing(t *testing.T) {
	got, want := newTables(subnet), newTables(subnet)
	other, port := bridge(2, macB), veth(10, 1)
	want.apply(is(other))
	want.apply(is(port))
	for _, e := range append(node(), fdb(macA, 10), arp(1, ipA, macA), is(onLink(ipA, 1)),
		gone(bridge(1, macBridge)), gone(veth(11, 1)), gone(veth(20, 0)), gone(link{ifindex: 12}), is(other)) {
		got.apply(e)
	}
	if diff := cmp.Diff(want, got, mirrored...); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
}

// mirrored compares tables by what the kernel says too.
var mirrored = append([]cmp.Option{cmp.AllowUnexported(tables{}, link{}, localAddr{}, hostRoute{}, neigh{}, fdbKey{}),
	cmpopts.IgnoreFields(tables{}, "subnet", "learned", "doubt"), cmpopts.IgnoreFields(neigh{}, "age")}, compare...)

func TestListingAgainKeepsWhatAged(t *testing.T) {
	m := newMachine(subnet, nil)
	for _, e := range append(node(), fdb(macA, 10), arp(1, ipA, macA), fdb(macB, 11), arp(1, ipB, macB)) {
		m.apply(e)
	}
	fresh := newTables(subnet)
	for _, e := range append(node(), gone(veth(11, 1))) {
		fresh.apply(e)
	}
	m.reset(fresh)
	if diff := cmp.Diff([]Endpoint{bridgedA()}, stateOf(m).Endpoints, compare...); diff != "" {
		t.Errorf("endpoints after a listing without aged entries and link 11 (-want +got):\n%s", diff)
	}
}

// A container that uses more addresses than a link may have keeps the first, and takes none from others.
func TestTooManyAddresses(t *testing.T) {
	m := newMachine(netip.MustParsePrefix("2001:db8:42:1::/64"), nil)
	address := func(i int) netip.Addr {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:42:1::%x", i))
	}
	for _, e := range append(node(), addr(1, address(1)), fdb(macA, 10), fdb(macB, 11)) {
		m.apply(e)
	}
	for i := range 2 * linkEndpoints {
		m.apply(arp(1, address(2+i), macA))
	}
	m.apply(arp(1, address(0x1000), macB))
	check := func(what string, a, b int) {
		t.Helper()
		got := map[int]int{}
		for _, e := range stateOf(m).Endpoints {
			got[e.Ifindex]++
		}
		if got[10] != a || got[11] != b || m.behind[10] != a || m.behind[11] != b {
			t.Errorf("%s: endpoints %v, counted %v, want %d and %d", what, got, m.behind, a, b)
		}
	}
	check("too many", linkEndpoints, 1)
	m.apply(arpFailed(1, address(2)))
	m.apply(arp(1, address(0x2000), macA))
	m.apply(arp(1, address(0x2001), macA))
	check("one goes, two come", linkEndpoints, 1)
	m.apply(arp(1, address(3), macB))
	check("one moves", linkEndpoints-1, 2)
	m.apply(fdb(macA, 11))
	check("all move to a link that has two", 0, linkEndpoints)
	m.apply(gone(veth(11, 1)))
	check("its link goes", 0, 0)
	if len(m.behind) > 0 {
		t.Errorf("left: %v", m.behind)
	}
}

func TestAdopt(t *testing.T) {
	tests := map[string]struct {
		events []event
		known  Endpoint
		want   []Endpoint
	}{
		"kernel forgot":         {known: bridgedA(), want: []Endpoint{bridgedA()}},
		"gateway was another":   {known: Endpoint{ipA, 10, macA, macHost}, want: []Endpoint{{ipA, 10, macA, macHost}}},
		"it has been told":      {events: []event{arp(1, ipA, macA)}, known: Endpoint{ipA, 10, macA, macHost}, want: []Endpoint{bridgedA()}},
		"FDB forgot":            {events: []event{arp(1, ipA, macA)}, known: bridgedA(), want: []Endpoint{bridgedA()}},
		"FDB says another port": {events: []event{fdb(macA, 11)}, known: bridgedA(), want: []Endpoint{{ipA, 11, macA, macBridge}}},
		"ARP says another MAC":  {events: []event{arp(1, ipA, macB)}, known: bridgedA()},
		"kernel knows better":   {events: []event{arp(1, ipA, macB), fdb(macB, 11)}, known: bridgedA(), want: []Endpoint{{ipA, 11, macB, macBridge}}},
		"link gone":             {events: []event{gone(veth(10, 1))}, known: bridgedA()},
		"link down":             {events: []event{is(noCarrier(veth(10, 1)))}, known: bridgedA()},
		"routed, kernel forgot": {events: []event{is(onLink(ipRouted, 20))}, known: routed(), want: []Endpoint{routed()}},
		"route gone":            {known: routed()},
		"another subnet's":      {known: Endpoint{netip.MustParseAddr("172.246.0.2"), 10, macA, macBridge}},
		"an address of our own": {known: Endpoint{ipBridge, 10, macA, macBridge}},
		"no MAC":                {known: Endpoint{Addr: ipA, Ifindex: 10}},
		"nothing":               {known: Endpoint{}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(subnet, nil)
			for _, e := range append(node(), test.events...) {
				m.apply(e)
			}
			m.adopt([]Endpoint{test.known})
			if diff := cmp.Diff(test.want, stateOf(m).Endpoints, compare...); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}
