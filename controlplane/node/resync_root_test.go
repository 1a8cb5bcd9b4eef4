// SPDX-License-Identifier: Apache-2.0

//go:build root

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// hooked is a Datapath with real maps that is attached nowhere but in its own memory.
type hooked struct {
	coll *ebpf.Collection
	mu   sync.Mutex
	on   attachments
	fail map[int]error // of Attach, by ifindex
}

// open loads the programs, which the stand-in does not attach.
func (h *hooked) open(s bpf.DatapathSettings) (Datapath, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	if err = spec.Variables[bpf.DatapathVarConfig].Set(&s); err != nil {
		return nil, err
	}
	spec.Maps["route_index"].MaxEntries = s.Ipv4.IndexCount + s.Ipv6.IndexCount
	h.coll, err = ebpf.NewCollection(spec)
	return h, err
}

func (h *hooked) Maps() map[string]*ebpf.Map { return h.coll.Maps }
func (h *hooked) Publish() error             { return nil }
func (h *hooked) Close() error               { h.coll.Close(); return nil }

func (h *hooked) ClearXDP(int) error { return nil }

func (h *hooked) Attached(program string) ([]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on.Attached(program)
}

func (h *hooked) Attach(program string, ifindex int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fail[ifindex]; err != nil {
		return err
	}
	return h.on.Attach(program, ifindex)
}

func (h *hooked) Detach(program string, ifindex int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on.Detach(program, ifindex)
}

// isOn reports whether the programs are attached to just these interfaces.
func (h *hooked) isOn(want attachments) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for program, ifindexes := range want {
		if !slices.Equal(ifindexes, h.on[program]) {
			return false
		}
	}
	return true
}

// takeOff is what others do with tc or bpftool.
func (h *hooked) takeOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.on)
}

// servedLoop is the loop of a node in a namespace of its own, which compares everything often.
func servedLoop(t *testing.T) (*loop, *hooked, *maps.Set) {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	nstest.Enter(t)
	nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24")
	l, _ := testLoop(t, labConfig)
	l.Underlay.Iface, l.Underlay.IPv4 = []string{"eth0"}, true
	uplink, err := underlay.Find(l.Underlay)
	if err != nil {
		t.Fatal(err)
	}
	l.uplink = uplink
	l.SubnetFile = filepath.Join(t.TempDir(), "subnet.env")
	subnet := netip.MustParsePrefix("172.245.0.0/24")
	l.first().self = topology.Self{
		Node: l.uplink.Addr, Uplink: l.uplink.Ifindex, Encap: topology.EncapVXLAN, VNI: 1, Port: 8472, MTU: 1450,
		Subnet: subnet, VTEP: topology.VTEP{Addr: subnet.Addr(), MAC: topology.MAC{2, 0, 0, 0, 0, 9}},
	}
	on := &hooked{on: attachments{}, fail: map[int]error{}}
	l.Open = on.open
	if err = l.openOverlay(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.dataplane, err = l.openDataplane(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if closeErr := l.close(); closeErr != nil {
			t.Error(closeErr)
		}
	})
	set, err := maps.NewSet(on.Maps())
	if err != nil {
		t.Fatal(err)
	}
	l.resync = 20 * time.Millisecond
	return l, on, set
}

// whileRunning runs a part of the loop on the namespace's thread, and what is tested of it beside it.
func whileRunning(t *testing.T, part func(context.Context) error, test func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	tested := make(chan struct{})
	go func() {
		defer close(tested)
		defer stop()
		test()
	}()
	if err := part(ctx); err != nil {
		t.Errorf("ended with %v", err)
	}
	stop()
	<-tested
}

// until is a waitFor that a goroutine beside the test's may call.
func until(t *testing.T, what string, condition func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("waited %s: %s", patience, what)
			return false
		}
	}
	return true
}

func TestResyncPutsBackWhatOthersRemove(t *testing.T) {
	l, on, set := servedLoop(t)
	peer := storeLease("172.246.0.0-24", "192.168.32.246", 2)
	if err := l.update(store.Update{Full: true, Revision: 2, Put: []store.Lease{peer}}); err != nil {
		t.Fatal(err)
	}
	want := attachments{bpf.FromNetwork: {l.uplink.Ifindex}, bpf.FromHost: {l.first().overlay.Ifindex}}
	routed := func() bool {
		host, err := set.Routes.Lookup(peer.Subnet.Addr().Next())
		return err == nil && host != 0
	}
	whileRunning(t, l.run, func() {
		if !until(t, "served at first", func() bool { return on.isOn(want) && routed() }) {
			return
		}
		on.takeOff()
		until(t, "programs back", func() bool { return on.isOn(want) })
		if err := set.Routes.Delete(0, peer.Subnet); err != nil {
			t.Error(err)
		}
		until(t, "route back", routed)
	})
}

func TestContainersAreRetriedAndPutBack(t *testing.T) {
	l, on, set := servedLoop(t)
	on.fail[7] = errors.New("no room")
	at := containers.Endpoint{Addr: netip.MustParseAddr("172.245.0.2"), Ifindex: 6, MAC: topology.MAC{2, 0, 0, 0, 0, 1}}
	found := make(chan containers.State, 1)
	found <- containers.State{Links: []containers.Link{{Ifindex: 6}, {Ifindex: 7}}, Endpoints: []containers.Endpoint{at}}
	known := func() bool {
		all, err := set.Endpoints.All()
		return err == nil && len(all) == 1
	}
	part := func(ctx context.Context) error { return l.dataplane.(*programs).followContainers(ctx, found) }
	whileRunning(t, part, func() {
		if !until(t, "the other served", func() bool { return on.isOn(attachments{bpf.FromContainer: {6}}) && known() }) {
			return
		}
		on.mu.Lock()
		delete(on.fail, 7)
		on.mu.Unlock()
		until(t, "tried again", func() bool { return on.isOn(attachments{bpf.FromContainer: {6, 7}}) })
		on.takeOff()
		until(t, "programs back", func() bool { return on.isOn(attachments{bpf.FromContainer: {6, 7}}) })
		if err := set.Endpoints.Delete(0, at.Addr); err != nil {
			t.Error(err)
		}
		until(t, "endpoint back", known)
	})
}

// A container that ends between its being found and its being served is nobody's problem.
func TestContainerGoneMeanwhile(t *testing.T) {
	l, on, _ := servedLoop(t)
	state := containers.State{Links: []containers.Link{{Ifindex: 6}, {Ifindex: 7}}}
	for err, problem := range map[error]bool{unix.ENODEV: false, unix.ENOSPC: true} {
		on.fail[6] = fmt.Errorf("attach: %w", err)
		if got := l.dataplane.(*programs).applyContainers(state); (got != nil) != problem {
			t.Errorf("%v for a container's interface: %v", err, got)
		}
		if !on.isOn(attachments{bpf.FromContainer: {7}}) {
			t.Errorf("%v for a container's interface: the other is not served: %v", err, on.on)
		}
	}
}
