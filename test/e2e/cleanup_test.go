// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestCleanup: `bpfnet cleanup` leaves a host as it was before the first daemon
// (topology as TestOverlay), somebody else's programs included, and the host can
// come back.
func TestCleanup(t *testing.T) {
	for _, m := range allModes {
		for _, way := range waysOf(m) {
			t.Run(m.String()+" "+way, func(t *testing.T) {
				l := up(t, m.in(nil))
				h1, h2 := l.Hosts[0], l.Hosts[1]
				attachForeign(t, h2)
				noError(t, os.RemoveAll(h2.Dir))
				before := hostState(t, h2)
				var args []string
				if way == "clsact" {
					args = []string{"--clsact"}
				}
				serveAgain(t, l, args...)
				want := append(wantAttached(l, h2, way), "eth0 clsact ingress foreign", "eth0 tcx ingress foreign")
				slices.Sort(want)
				equal(t, "programs", want, attached(t, h2))
				programs, maps := objects(t, h2)

				if out, err := h2.NS.Run(t.Context(), bpfnetBinary, "--run-dir", h2.Dir, "cleanup"); err == nil ||
					!strings.Contains(err.Error(), "a daemon is running on "+h2.Dir+": stop it first") {
					t.Errorf("cleanup under a running daemon: %q, %v", out, err)
				}
				noError(t, h2.StopDaemon(t.Context()))
				if m.copied() == 0 {
					ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 1}) // all is in place still
				}
				bpfnet(t, h2, "cleanup")
				equal(t, "state of "+h2.Name, before, hostState(t, h2))
				until(t, "the kernel has freed its programs and maps", func() (bool, error) { return gone(programs, maps), nil })
				bpfnet(t, h2, "cleanup") // of nothing

				serveAgain(t, l, args...)
				ping(t, h1.Containers[0].NS, h2.Containers[0].Addr, lab.PingOptions{Count: 1})
			})
		}
	}
}

// waysOf are the ways to attach programs, where there are any.
func waysOf(m mode) []string {
	if m.dataplane == node.Netlink {
		return []string{"no programs"}
	}
	return []string{"tcx", "clsact"}
}

// attachForeign attaches a program to a host's uplink by tcx and by a filter,
// as somebody else might have.
func attachForeign(t *testing.T, h *lab.Host) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // on to the next
	})
	noError(t, err)
	defer program.Close()
	noError(t, h.NS.Do(func() error {
		eth0, err := netlink.LinkByName(lab.Uplink)
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
		if err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs}); err != nil {
			return err
		}
		filter := netlink.FilterAttrs{
			LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: 1,
		}
		err = netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: filter, Fd: program.FD(), Name: "foreign", DirectAction: true})
		if err != nil {
			return err
		}
		l, err := link.AttachTCX(link.TCXOptions{Interface: eth0.Attrs().Index, Program: program, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	}))
}

// serveAgain starts the daemons that do not run, and waits for all to be known.
func serveAgain(t *testing.T, l *lab.Lab, args ...string) {
	t.Helper()
	for _, h := range l.Hosts {
		if !h.DaemonAlive() {
			noError(t, os.MkdirAll(h.Dir, 0o700))
			noError(t, h.StartDaemon(t.Context(), args...))
		}
	}
	for _, h := range l.Hosts {
		waitPeers(t, h, len(l.Hosts)-1)
		learn(t, h)
	}
}

// hostState is all of a host that a daemon might leave something in.
func hostState(t *testing.T, h *lab.Host) (all []string) {
	t.Helper()
	for _, command := range []string{
		"ip -o link", "ip -o address", "ip rule", "ip route show table all",
		"ip neigh show nud permanent", "tc qdisc", "tc filter show dev eth0 ingress", "tc filter show dev eth0 egress",
	} {
		all = append(all, append([]string{command}, lines(run(t, h.NS, strings.Fields(command)...))...)...)
	}
	for _, entry := range lines(run(t, h.NS, "bridge", "fdb")) {
		if strings.HasSuffix(entry, "permanent") { // not what the bridge has learned
			all = append(all, entry)
		}
	}
	all = append(all, attached(t, h)...)
	mounts, err := os.ReadFile("/proc/self/mounts")
	noError(t, err)
	for _, mount := range lines(string(mounts)) {
		if strings.Contains(mount, h.Dir) {
			all = append(all, mount)
		}
	}
	files, err := filepath.Glob(filepath.Join(h.Dir, "*"))
	noError(t, err)
	for _, file := range files {
		if file != h.LogFile() && file != h.SubnetFile() { // the lab's
			all = append(all, file)
		}
	}
	return all
}

// objects are our programs attached on a host and the maps they use.
func objects(t *testing.T, h *lab.Host) (programs []ebpf.ProgramID, maps []ebpf.MapID) {
	t.Helper()
	for _, p := range attachedPrograms(t, h) {
		if p.info.Name == "foreign" {
			continue
		}
		program, haveProgram := p.info.ID()
		used, haveMaps := p.info.MapIDs()
		if !haveProgram || !haveMaps {
			t.Fatalf("%s: the kernel does not tell its numbers", p)
		}
		programs = append(programs, program)
		maps = append(maps, used...)
	}
	return programs, maps
}

// gone reports whether the kernel has none of these any more.
func gone(programs []ebpf.ProgramID, maps []ebpf.MapID) bool {
	return !slices.ContainsFunc(programs, func(id ebpf.ProgramID) bool {
		p, err := ebpf.NewProgramFromID(id)
		_ = p.Close()
		return !errors.Is(err, os.ErrNotExist)
	}) && !slices.ContainsFunc(maps, func(id ebpf.MapID) bool {
		m, err := ebpf.NewMapFromID(id)
		_ = m.Close()
		return !errors.Is(err, os.ErrNotExist)
	})
}
