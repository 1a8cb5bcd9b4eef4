// SPDX-License-Identifier: Apache-2.0

//go:build root

package loader

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func TestAttachers(t *testing.T) {
	for name, useClsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			eth := nstest.AddVeth(t, "eth0", 1500)
			o := testOptions(t)
			o.Clsact = useClsact
			d := open(t, o)
			for range 2 { // idempotent
				for _, p := range []string{bpf.FromContainer, bpf.FromNetwork, bpf.FromHost} {
					if err := d.Attach(p, eth); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, p := range []string{bpf.FromContainer, bpf.FromNetwork, bpf.FromHost} {
				if on, err := d.Attached(p); err != nil || !slices.Equal(on, []int{eth}) {
					t.Errorf("%s attached to %v, %v, want %d", p, on, err, eth)
				}
				for range 2 {
					if err := d.Detach(p, eth); err != nil {
						t.Error(err)
					}
				}
				if on, err := d.Attached(p); err != nil || len(on) != 0 {
					t.Errorf("%s attached to %v, %v after detaching", p, on, err)
				}
			}
		})
	}
}

// Unless it is told otherwise, a daemon attaches by tcx where the kernel has it.
func TestAttacherOfTheKernel(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	start(t, testOptions(t), bpf.FromNetwork, eth)
	if attached(t, eth) == 0 {
		t.Error("nothing attached")
	}
	want := 1
	if haveTCX(t) {
		want = 0
	}
	if f, err := (clsact{}).list(); err != nil || len(f) != want {
		t.Errorf("filters %v, %v, want %d", f, err, want)
	}
}

// A daemon that attaches in the other way leaves nothing of the one before.
func TestChangedAttacher(t *testing.T) {
	if !haveTCX(t) {
		t.Skip("this kernel has but one way")
	}
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	for range 2 {
		o.Clsact = false
		start(t, o, bpf.FromNetwork, eth)
		if f, err := (clsact{}).list(); err != nil || len(f) != 0 {
			t.Errorf("filters %v, %v, want only a tcx link", f, err)
		}
		if attached(t, eth) == 0 {
			t.Error("no program attached")
		}
		o.Clsact = true
		start(t, o, bpf.FromNetwork, eth)
		if f, err := (clsact{}).list(); err != nil || len(f) != 1 {
			t.Errorf("filters %v, %v, want one", f, err)
		}
		waitDetached(t, eth)
	}
}

// An interface that is gone leaves its pinned link behind; its number may come back.
func TestAttachAfterInterfaceWasReplaced(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	d := start(t, o, bpf.FromNetwork, eth)
	replaceInterface(t, "eth0")
	if attached(t, eth) != 0 {
		t.Fatal("the new interface has a program already")
	}
	if err := d.Attach(bpf.FromNetwork, eth); err != nil {
		t.Fatal(err)
	}
	if attached(t, eth) == 0 {
		t.Error("nothing attached to the interface that took over the number")
	}
}

// Interfaces of two network namespaces have the same numbers.
func TestAttachInAnotherNamespace(t *testing.T) {
	nstest.Enter(t)
	eth := nstest.AddVeth(t, "eth0", 1500)
	o := testOptions(t)
	start(t, o, bpf.FromNetwork, eth)
	first := attached(t, eth)

	t.Run("another", func(t *testing.T) {
		nstest.Enter(t)
		if same := nstest.AddVeth(t, "eth0", 1500); same != eth {
			t.Fatalf("interface %d, want the number %d again", same, eth)
		}
		o.Settings.Vni++ // another program
		d := open(t, o)
		if on, err := d.Attached(bpf.FromNetwork); err != nil || len(on) != 0 {
			t.Errorf("attached to %v, %v before anything is here", on, err)
		}
		if err := d.Detach(bpf.FromNetwork, eth); err != nil {
			t.Error(err)
		}
		if err := d.Attach(bpf.FromNetwork, eth); err != nil {
			t.Fatal(err)
		}
		if attached(t, eth) == 0 {
			t.Error("nothing attached in this namespace")
		}
	})
	if now := attached(t, eth); now != first {
		t.Errorf("program %d is now %d: changed from another namespace", first, now)
	}
}

// replaceInterface deletes an interface and makes another of the same name and number.
func replaceInterface(t *testing.T, name string) {
	t.Helper()
	old := nstest.Link(t, name)
	if err := netlink.LinkDel(old); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, old.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer-" + name}); err != nil {
		t.Fatal(err)
	}
}

// Containers come and go while interfaces are listed.
func TestListWhileInterfacesComeAndGo(t *testing.T) {
	nstest.Enter(t)
	for i := range 40 { // more than one message of a listing takes
		nstest.AddVeth(t, fmt.Sprintf("veth%d", i), 1500)
	}
	before, err := interfaces()
	if err != nil {
		t.Fatal(err)
	}
	churn, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer churn.Close()
	done, ended := make(chan struct{}), make(chan int)
	go func() { ended <- comeAndGo(churn, done) }()
	for range 200 {
		if all, err := interfaces(); err != nil || len(all) < len(before) {
			t.Errorf("%d interfaces, %v, want %d at least", len(all), err, len(before))
		}
	}
	close(done)
	if n := <-ended; n == 0 {
		t.Error("no interface came and went")
	}
}

// comeAndGo makes and removes an interface, again and again, and returns how often.
func comeAndGo(h *netlink.Handle, done <-chan struct{}) (times int) {
	for {
		select {
		case <-done:
			return times
		default:
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "passing"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "peer-passing"}
		if h.LinkAdd(veth) == nil && h.LinkDel(veth) == nil {
			times++
		}
	}
}
