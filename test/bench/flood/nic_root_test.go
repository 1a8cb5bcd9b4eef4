// SPDX-License-Identifier: Apache-2.0

//go:build root

package flood

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// nic is a veth that receives as a NIC does, and what frames come in by.
type nic struct {
	name      string
	ifindex   int
	mac       topology.MAC
	generator *ebpf.Program // sends to the other end
	thread    int           // NAPI's
}

var nics int // that there have been

func newNIC(b *testing.B, addr netip.Prefix) *nic {
	b.Helper()
	nics++
	n := &nic{name: fmt.Sprintf("fl%d-%d", os.Getpid()%1000, nics)} // in the name of NAPI's thread, which all namespaces share
	n.ifindex = nstest.AddVeth(b, n.name, 1500, addr.String())
	n.mac = topology.MAC(nstest.Link(b, n.name).Attrs().HardwareAddr)
	must(b, ethtool.Change(n.name, map[string]bool{"rx-gro": true})) // without it, and without XDP, a veth has no NAPI
	threaded(b, n.name)
	peer := nstest.Link(b, "peer-"+n.name).Attrs().Index
	var err error
	n.generator, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(peer)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call(), asm.Return(),
		},
	})
	must(b, err)
	b.Cleanup(func() { must(b, n.generator.Close()) })
	return n
}

// threaded gives the device's NAPI a thread. Its sysfs is that of its network namespace, seen by
// a mount that only this OS thread has, which therefore ends with the benchmark.
func threaded(b *testing.B, name string) {
	b.Helper()
	runtime.LockOSThread()
	must(b, unix.Unshare(unix.CLONE_NEWNS))
	must(b, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := b.TempDir()
	must(b, unix.Mount("sysfs", dir, "sysfs", 0, ""))
	b.Cleanup(func() { must(b, unix.Unmount(dir, 0)) })
	must(b, os.WriteFile(filepath.Join(dir, "class/net", name, "threaded"), []byte("1"), 0))
}

// findThread is for when all is attached: native XDP makes a new thread.
func (n *nic) findThread(b *testing.B) {
	b.Helper()
	n.thread = napiThread(b, n.name)
	pin(b, n.thread, runtime.NumCPU()-1)
	pin(b, 0, 0) // the sender
}

func napiThread(b *testing.B, name string) int {
	b.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	must(b, err)
	for _, path := range all {
		if comm, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(comm), "napi/"+name+"-") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(b, err)
			return pid
		}
	}
	b.Fatal("NAPI's thread is not to be seen: run this in the machine's own process namespace")
	return 0
}

func pin(b *testing.B, thread, cpu int) {
	b.Helper()
	var set unix.CPUSet
	set.Set(cpu)
	must(b, unix.SchedSetaffinity(thread, &set))
}

// send floods, and waits until what was not lost has been received.
func (n *nic) send(b *testing.B, frame []byte, count int) {
	b.Helper()
	_, err := n.generator.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(count), Flags: liveFrames})
	must(b, err)
	for last, now := uint64(0), n.received(b); now != last; {
		must(b, bench.Sleep(b.Context(), idle)) // that nothing comes any more is no state to wait for
		last, now = now, n.received(b)
	}
}

// idle is how long NAPI receives nothing once the ring is empty, on a machine that is not too busy to measure.
const idle = 100 * time.Millisecond

// received is what NAPI has taken from the ring.
func (n *nic) received(b *testing.B) uint64 {
	b.Helper()
	l, err := netlink.LinkByIndex(n.ifindex)
	must(b, err)
	return l.Attrs().Statistics.RxPackets
}

// busy is NAPI's CPU time: the first number of /proc/PID/schedstat (sched-stats.rst).
func (n *nic) busy(b *testing.B) time.Duration {
	b.Helper()
	s, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", n.thread))
	must(b, err)
	ns, err := strconv.ParseInt(strings.Fields(string(s))[0], 10, 64)
	must(b, err)
	return time.Duration(ns)
}
