// SPDX-License-Identifier: Apache-2.0

//go:build root

package ethtool

import (
	"errors"
	"maps"
	"os/exec"
	"regexp"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/nstest"
)

const device = "veth"

// printed is what `ethtool -k` says, by name.
func printed(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.Command("ethtool", "-k", device).Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\s*([a-z0-9_-]+): (on|off)`).FindAllStringSubmatch(string(out), -1) {
		all[m[1]] = m[2] == "on"
	}
	return all
}

// TestFeatures holds what is asked and changed to what the tool of that name says.
func TestFeatures(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, device, 1500)
	want := map[string]bool{"tx-udp-segmentation": false, "rx-gro-list": true, "tx-gre-segmentation": false}
	before, err := Features(device)
	if err != nil {
		t.Fatal(err)
	}
	if err = Change(device, want); err != nil {
		t.Fatal(err)
	}
	after, err := Features(device)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(before, want)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after the change:\n%s", diff)
	}
	agreed := 0
	for name, on := range printed(t) { // some it prints by names of its own, or by none
		if has, ok := after[name]; ok {
			agreed++
			if has != on {
				t.Errorf("%s is %t, ethtool says %t", name, has, on)
			}
		}
	}
	if agreed < 30 {
		t.Errorf("%d names in common with ethtool's", agreed)
	}
}

func TestRefused(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, device, 1500)
	for _, name := range []string{"none", "a-name-longer-than-any-device"} {
		if _, err := Features(name); !errors.Is(err, unix.ENODEV) {
			t.Errorf("features of %s: error %v", name, err)
		}
	}
	if err := Change(device, map[string]bool{"tx-tcp-segmentation": false, "no-such": true}); err == nil {
		t.Error("a feature that the kernel does not know was changed")
	}
	if has, err := Features(device); err != nil || !has["tx-tcp-segmentation"] {
		t.Errorf("of a change that was refused half was done: %v", err)
	}
}

// TestStacksMove asks from new goroutines, whose stacks grow and shrink meanwhile: the kernel's answer is always there.
func TestStacksMove(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, device, 1500)
	want, err := Features(device)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC() // shrinks stacks
			}
		}
	}()
	for range 300 {
		has, err := Features(device) // the namespace is this thread's
		if err != nil || !maps.Equal(want, has) {
			t.Errorf("features differ, error %v:\n%s", err, cmp.Diff(want, has))
			break
		}
	}
	close(stop)
	<-done
}
