// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// testLoop is a loop of a session without etcd and kernel, and what it logs.
func testLoop(t *testing.T, config string) (*loop, func() []string) {
	t.Helper()
	cfg, err := store.ParseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	log, lines := logged()
	n := &node{log: log, reporter: newReporter(log), choice: newChoice(EBPF)}
	s := &session{node: n, kind: EBPF, config: cfg, held: &store.Held{}}
	s.families = s.newFamilies()
	return newLoop(s), lines
}

const labConfig = `{"Network":"172.244.0.0/14","Backend":{"Type":"vxlan"}}`

func storeLease(key string, node string, revision int64) store.Lease {
	return store.Lease{
		Key: key, Subnet: netip.MustParsePrefix("172.246.0.0/24"), PublicIP: netip.MustParseAddr(node), Backend: topology.EncapVXLAN,
		VNI: 1, MAC: topology.MAC{2, 0, 0, 0, 0, 1}, CreateRevision: 1, ModRevision: revision,
	}
}

func TestUpdate(t *testing.T) {
	malformed := errors.New("malformed")
	tests := map[string]struct {
		updates []store.Update
		nodes   map[string]string // by key
		bad     []string
		full    bool
	}{
		"before the first snapshot": {
			updates: []store.Update{{Put: []store.Lease{storeLease("a", "10.0.0.1", 2)}}},
			nodes:   map[string]string{"a": "10.0.0.1"},
		},
		"a snapshot": {
			updates: []store.Update{{Full: true, Put: []store.Lease{storeLease("a", "10.0.0.1", 2)}, Bad: map[string]error{"b": malformed}}},
			nodes:   map[string]string{"a": "10.0.0.1"}, bad: []string{"b"}, full: true,
		},
		"an empty snapshot": {
			updates: []store.Update{{Full: true}}, full: true,
		},
		"changes": {
			updates: []store.Update{
				{Full: true, Put: []store.Lease{storeLease("a", "10.0.0.1", 2), storeLease("b", "10.0.0.2", 2)}},
				{Put: []store.Lease{storeLease("b", "10.0.0.3", 3), storeLease("c", "10.0.0.4", 3)}, Deleted: []string{"a", "x"}},
			},
			nodes: map[string]string{"b": "10.0.0.3", "c": "10.0.0.4"}, full: true,
		},
		"a snapshot is everything there is": {
			updates: []store.Update{
				{Full: true, Put: []store.Lease{storeLease("a", "10.0.0.1", 2)}, Bad: map[string]error{"b": malformed}},
				{Full: true, Put: []store.Lease{storeLease("c", "10.0.0.3", 9)}},
			},
			nodes: map[string]string{"c": "10.0.0.3"}, full: true,
		},
		"what a key said before it became malformed is served on": {
			updates: []store.Update{
				{Full: true, Put: []store.Lease{storeLease("a", "10.0.0.1", 2)}},
				{Bad: map[string]error{"a": malformed}},
			},
			nodes: map[string]string{"a": "10.0.0.1"}, bad: []string{"a"}, full: true,
		},
		"mended": {
			updates: []store.Update{
				{Full: true, Bad: map[string]error{"a": malformed}},
				{Put: []store.Lease{storeLease("a", "10.0.0.1", 2)}},
			},
			nodes: map[string]string{"a": "10.0.0.1"}, full: true,
		},
		"a malformed one deleted": {
			updates: []store.Update{
				{Full: true, Bad: map[string]error{"a": malformed}},
				{Deleted: []string{"a"}},
			},
			full: true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l, _ := testLoop(t, labConfig)
			for i, u := range test.updates {
				u.Revision = int64(i + 10)
				if err := l.update(u); err != nil {
					t.Fatal(err)
				}
			}
			inputs, full := l.inputs()
			in := inputs[0]
			nodes := map[string]string{}
			for _, lease := range in.Leases {
				nodes[lease.Key] = lease.Node.String()
			}
			if !maps.Equal(test.nodes, nodes) {
				t.Errorf("leases (-want +got):\n%s", cmp.Diff(test.nodes, nodes))
			}
			var bad []string
			for _, p := range l.badRecords() {
				bad = append(bad, p.Key)
				if !strings.HasPrefix(p.Text, "malformed; ") {
					t.Errorf("problem %q of %s", p.Text, p.Key)
				}
			}
			if !slices.Equal(test.bad, bad) || full != test.full || l.revision != int64(len(test.updates)+9) {
				t.Errorf("malformed %v, full %t, revision %d; want %v, %t, %d",
					bad, full, l.revision, test.bad, test.full, len(test.updates)+9)
			}
		})
	}
}

func TestInputCarriesTheWholeLease(t *testing.T) {
	l, _ := testLoop(t, `{"Network":"172.244.0.0/14","Backend":{"Type":"vxlan","DirectRouting":true}}`)
	if err := l.update(store.Update{Full: true, Put: []store.Lease{storeLease("a", "10.0.0.1", 7)}}); err != nil {
		t.Fatal(err)
	}
	inputs, _ := l.inputs()
	in := inputs[0]
	want := []topology.Lease{{
		Key: "a", Subnet: netip.MustParsePrefix("172.246.0.0/24"), Node: netip.MustParseAddr("10.0.0.1"), Encap: topology.EncapVXLAN,
		MAC: topology.MAC{2, 0, 0, 0, 0, 1}, VNI: 1, Created: 1, Modified: 7,
	}}
	if !slices.Equal(want, in.Leases) || !in.DirectRouting || in.Network != netip.MustParsePrefix("172.244.0.0/14") {
		t.Errorf("input %+v, want leases %+v", in, want)
	}
}

// TestWake: however much happens, one pass takes it all.
func TestWake(t *testing.T) {
	l, _ := testLoop(t, labConfig)
	for range 10 {
		if err := l.update(store.Update{}); err != nil {
			t.Fatal(err)
		}
		l.underlayChanged()
	}
	<-l.wake
	select {
	case <-l.wake:
		t.Error("woken twice for what one pass takes")
	default:
	}
	if !l.moved {
		t.Error("the underlay's change is forgotten")
	}
}

func TestConfigChanged(t *testing.T) {
	l, lines := testLoop(t, labConfig)
	unchanged := []struct {
		raw  string
		want int // lines of log
	}{
		{labConfig, 0},
		{`{"Network": "172.244.0.0/14", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 1}}`, 0}, // says the same
		{`{"Network":`, 1},
		{`{"Network":`, 0},
		{labConfig, 1}, // mended
	}
	for _, c := range unchanged {
		l.configChanged([]byte(c.raw))
		if got := lines(); len(got) != c.want {
			t.Errorf("config %s: log %q, want %d lines", c.raw, got, c.want)
		}
		if len(l.over) > 0 {
			t.Fatalf("config %s ends the session", c.raw)
		}
	}
	for range 2 { // the second while the first is still being seen to
		l.configChanged([]byte(`{"Network":"172.244.0.0/14","Backend":{"Type":"ipip"}}`))
	}
	if err := <-l.over; !errors.Is(err, errRestart) {
		t.Errorf("a new config ends the session with %v, want %v", err, errRestart)
	}
}

func TestConfigRemoved(t *testing.T) {
	l, lines := testLoop(t, labConfig)
	for range 2 {
		l.configChanged(nil)
	}
	checkLines(t, "removed", lines(), `level=WARN msg="the network config was removed from etcd; `+
		`the last one is served until there is another" source=config`)
	l.configChanged([]byte(labConfig))
	checkLines(t, "written again", lines(), `level=INFO msg=mended source=config`)
	if len(l.over) > 0 {
		t.Error("the session ends")
	}
}

func TestLeaseEvent(t *testing.T) {
	l, lines := testLoop(t, labConfig)
	lease := store.Lease{Key: "172.245.0.0-24"}
	steps := []struct {
		event store.Event
		want  []string
	}{
		{store.Event{Kind: store.Renewed, Lease: lease}, nil},
		{store.Event{Kind: store.Altered, Lease: lease, Err: errors.New("written by another")},
			[]string{`level=WARN msg="written by another" source=lease`}},
		{store.Event{Kind: store.Restored, Lease: lease}, []string{`level=INFO msg=mended source=lease`}},
		{store.Event{Kind: store.Recreated, Lease: lease},
			[]string{`level=WARN msg="the node's lease was gone from etcd and has been put back" lease=172.245.0.0-24`}},
		{store.Event{Kind: store.Lost, Lease: lease, Err: errors.New("another has the subnet")},
			[]string{`level=WARN msg="another has the subnet" source=lease`}},
		{store.Event{Kind: store.Renewed, Lease: lease}, []string{`level=INFO msg=mended source=lease`}},
	}
	for _, step := range steps {
		l.leaseEvent(step.event)
		checkLines(t, string(step.event.Kind), lines(), step.want...)
	}
}

// attachments is a Datapath that knows nothing but where it is attached.
type attachments map[string][]int

func (a attachments) Maps() map[string]*ebpf.Map { return nil }
func (a attachments) Publish() error             { return nil }
func (a attachments) Close() error               { return nil }

func (attachments) ClearXDP(int) error { return nil }

func (a attachments) Attached(program string) ([]int, error) { return slices.Clone(a[program]), nil }

func (a attachments) Attach(program string, ifindex int) error {
	if !slices.Contains(a[program], ifindex) {
		a[program] = append(a[program], ifindex)
	}
	return nil
}

func (a attachments) Detach(program string, ifindex int) error {
	if ifindex == 66 {
		return errors.New("no permission")
	}
	a[program] = slices.DeleteFunc(a[program], func(i int) bool { return i == ifindex })
	return nil
}

func TestAttachOnly(t *testing.T) {
	tests := map[string]struct {
		on   []int
		at   []int
		want []int
		err  bool
	}{
		"nowhere yet":                       {nil, []int{2}, []int{2}, false},
		"there already":                     {[]int{2}, []int{2}, []int{2}, false},
		"on the uplink before":              {[]int{1, 3}, []int{2}, []int{2}, false},
		"there and elsewhere":               {[]int{1, 2}, []int{2}, []int{2}, false},
		"no such interface in this network": {[]int{1, 2}, nil, nil, false},
		"one cannot be detached":            {[]int{66, 1}, []int{2}, []int{66, 2}, true},
		"on two, one of them before":        {[]int{3, 1}, []int{2, 3}, []int{3, 2}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l, _ := testLoop(t, labConfig)
			on := attachments{bpf.FromNetwork: slices.Clone(test.on), bpf.FromHost: {9}}
			err := (&programs{session: l.session, datapath: on}).attachOnly(bpf.FromNetwork, test.at...)
			if got := on[bpf.FromNetwork]; !slices.Equal(test.want, got) || (err != nil) != test.err {
				t.Errorf("attached to %v, error %v; want %v, error %t", got, err, test.want, test.err)
			}
			if !slices.Equal([]int{9}, on[bpf.FromHost]) {
				t.Errorf("another program moved to %v", on[bpf.FromHost])
			}
		})
	}
}

// What leaves by bpfnet0 is taken in front of it, in a udp network behind it, and in an ipip network what has to be cut
// first.
func TestAttachFollowsTheEncapsulation(t *testing.T) {
	const uplink, overlay, peer = 2, 9, 10
	inFront := func() attachments {
		return attachments{bpf.FromNetwork: {uplink}, bpf.FromHost: {overlay}, bpf.FromOverlay: {overlay}}
	}
	behind := func() attachments {
		return attachments{bpf.FromNetwork: {uplink}, bpf.FromVeth: {peer}, bpf.FromOverlay: {overlay}}
	}
	both := func() attachments {
		return attachments{bpf.FromNetwork: {uplink}, bpf.FromHost: {overlay}, bpf.FromVeth: {peer}, bpf.FromOverlay: {overlay}}
	}
	tests := map[topology.Encap]struct {
		device netlink.Device
		want   attachments
	}{
		topology.EncapVXLAN: {netlink.Device{Ifindex: overlay}, inFront()},
		topology.EncapIPIP:  {netlink.Device{Ifindex: overlay, PeerIfindex: peer}, both()},
		topology.EncapUDP:   {netlink.Device{Ifindex: overlay, PeerIfindex: peer}, behind()},
		topology.EncapNone:  {netlink.Device{}, attachments{bpf.FromNetwork: {uplink}}},
	}
	for encap, test := range tests {
		for before, on := range map[string]attachments{
			"nothing": {}, "vxlan": inFront(), "ipip": both(), "udp": behind(),
		} {
			t.Run(fmt.Sprintf("%s after %s", encap, before), func(t *testing.T) {
				l, _ := testLoop(t, labConfig)
				l.uplink.Ifindex = uplink
				f := l.first()
				f.overlay, f.self.Encap = test.device, encap
				if err := (&programs{session: l.session, datapath: on}).attach(); err != nil {
					t.Fatal(err)
				}
				maps.DeleteFunc(on, func(_ string, ifindexes []int) bool { return len(ifindexes) == 0 })
				if diff := cmp.Diff(test.want, on); diff != "" {
					t.Errorf("attached (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestDetachExcept(t *testing.T) {
	l, _ := testLoop(t, labConfig)
	on := attachments{bpf.FromContainer: {5, 66, 6, 7}}
	if err := (&programs{session: l.session, datapath: on}).detachExcept(map[int]bool{6: true, 8: true}); err == nil {
		t.Error("no error of the link that cannot be detached from")
	}
	if got := on[bpf.FromContainer]; !slices.Equal([]int{66, 6}, got) {
		t.Errorf("attached to %v, want [66 6]", got)
	}
}

// Without Ethernet headers the programs would take no packet out of its tunnel, and all would be lost in silence.
func TestTunnelNeedsEthernet(t *testing.T) {
	const refusal = "uplink wg0 has no Ethernet, which the ebpf dataplane needs with the backend %s: choose another uplink, or --dataplane netlink"
	l, _ := testLoop(t, labConfig)
	l.uplink.Name = "wg0"
	for _, encap := range []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP, topology.EncapUDP} {
		l.first().self.Encap = encap
		if _, err := openPrograms(l.session); err == nil || err.Error() != fmt.Sprintf(refusal, encap) {
			t.Errorf("%s: %v, want %s", encap, err, fmt.Sprintf(refusal, encap))
		}
	}
	l.first().self.Encap = topology.EncapNone
	if err := l.checkUplink(); err != nil {
		t.Error(err)
	}
	l.first().self.Encap, l.uplink.MAC = topology.EncapVXLAN, topology.MAC{2}
	if err := l.checkUplink(); err != nil {
		t.Error(err)
	}
}
