// SPDX-License-Identifier: Apache-2.0

//go:build root

package main

import (
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/lab"
)

// TestKilled kills `lab up` and `lab down` right after one of the system calls by which they change something, each
// time another: the next command, whichever it is, meets no obstacle, and nothing of the killed one remains.
func TestKilled(t *testing.T) {
	const name, moments = "killed", 1 // of each command before each
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	k := newKiller(t)
	up := []string{binary, "lab", "up", "--name", name, "--hosts", "1", "--containers", "1"}
	down := []string{binary, "lab", "down", "--name", name}
	steps := map[string]uint64{} // of each command
	for _, command := range [][]string{up, down} {
		var out string
		if out, steps[command[2]], err = k.run(t, 0, command); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	run := func(command []string) (string, error) {
		out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct{ before, killed, next []string }{{nil, up, up}, {nil, up, down}, {up, down, up}, {up, down, down}} {
		for range moments {
			if c.before != nil {
				if out, err := run(c.before); err != nil {
					t.Fatalf("%v: %v: %s", c.before, err, out)
				}
			}
			at := 1 + rand.Uint64N(steps[c.killed[2]])
			k.run(t, at, c.killed) //nolint:errcheck // it is killed
			l, err := lab.Open(name)
			complete := err == nil && l.Kept // it was killed, if at all, after its last step
			out, err := run(c.next)
			if err != nil && (!complete || !strings.Contains(out, "is up already")) {
				t.Errorf("lab %s after lab %s was killed at step %d: %v: %s", c.next[2], c.killed[2], at, err, out)
			}
			if err := lab.Down(name); err != nil {
				t.Error(err)
			}
			if left := leftOf(t, name, binary); len(left) > 0 {
				t.Errorf("lab %s killed at step %d, then lab %s, left %v", c.killed[2], at, c.next[2], left)
			}
		}
	}
}

// leftOf lists what is left of a lab, and the processes of the binary.
func leftOf(t *testing.T, name, binary string) (left []string) {
	t.Helper()
	for _, pattern := range []string{"/run/netns/bpfnet-" + name + "-*", "/run/bpfnet-lab/" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/bpfnet-lab/"+name+"/") {
			left = append(left, "mount "+line)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range procs {
		if exe, err := os.Readlink(proc + "/exe"); err == nil && exe == binary {
			left = append(left, proc)
		}
	}
	return left
}

// killer kills a process right after a given one of its steps.
type killer struct{ target *ebpf.Map }

// killerTarget is the value of its map: the process, how many steps it has begun, which is to be its last (0: none),
// and the thread that does that one. By their offsets the programs know them.
type killerTarget struct{ PID, Steps, At, Thread uint64 }

// stepCalls are the system calls that leave something behind, or take it away.
var stepCalls = []int64{
	unix.SYS_CLONE, unix.SYS_FLOCK, unix.SYS_MKDIRAT, unix.SYS_MOUNT, unix.SYS_RENAMEAT, unix.SYS_SETNS,
	unix.SYS_UMOUNT2, unix.SYS_UNLINKAT, unix.SYS_UNSHARE,
}

func newKiller(t *testing.T) killer {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(rlimit.RemoveMemlock())
	target, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 32, MaxEntries: 1})
	ok(err)
	t.Cleanup(func() { _ = target.Close() }) // a test's
	for name, program := range map[string]asm.Instructions{"sys_enter": countStep(), "sys_exit": killAfterStep()} {
		ofTarget := onTarget(t, target)
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.RawTracepoint, License: "GPL", Instructions: append(ofTarget, program...)})
		ok(err)
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: name, Program: prog})
		ok(err)
		t.Cleanup(func() { _, _ = l.Close(), prog.Close() }) // a test's
	}
	return killer{target}
}

// onTarget goes on for the target alone, with R0 its killerTarget, R6 the program's context and R7 the thread.
func onTarget(t *testing.T, target *ebpf.Map) asm.Instructions {
	t.Helper()
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &ns); err != nil {
		t.Fatal(err)
	}
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadImm(asm.R1, int64(ns.Dev), asm.DWord), // bpf_get_ns_current_pid_tgid
		asm.LoadImm(asm.R2, int64(ns.Ino), asm.DWord),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8), // struct bpf_pidns_info: pid, tgid
		asm.Mov.Imm(asm.R4, 8),
		asm.FnGetNsCurrentPidTgid.Call(),
		asm.JNE.Imm(asm.R0, 0, "exit"), // of another PID namespace
		asm.LoadMem(asm.R7, asm.RFP, -8, asm.Word),
		asm.LoadMem(asm.R8, asm.RFP, -4, asm.Word),
		asm.StoreImm(asm.RFP, -16, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, target.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -16),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R8, "exit"),
	}
}

// countStep runs at the entry of a system call, whose number is the context's second word.
func countStep() asm.Instructions {
	p := asm.Instructions{asm.LoadMem(asm.R1, asm.R6, 8, asm.DWord)}
	for _, call := range stepCalls {
		p = append(p, asm.JEq.Imm(asm.R1, int32(call), "step"))
	}
	return append(p,
		asm.Ja.Label("exit"),
		asm.LoadMem(asm.R2, asm.R0, 8, asm.DWord).WithSymbol("step"), // two threads may count one at once: no matter
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.R0, 8, asm.R2, asm.DWord),
		asm.LoadMem(asm.R3, asm.R0, 16, asm.DWord),
		asm.JNE.Reg(asm.R2, asm.R3, "exit"),
		asm.StoreMem(asm.R0, 24, asm.R7, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	)
}

// killAfterStep runs when a system call is done: one that is killed before may not do what it should (fork).
func killAfterStep() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R0, 24, asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R7, "exit"),
		asm.Mov.Imm(asm.R1, int32(unix.SIGKILL)),
		asm.FnSendSignal.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	}
}

// run runs a command, to be killed in step number at, and returns what it printed and how many steps it took.
func (k killer) run(t *testing.T, at uint64, command []string) (out string, steps uint64, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `read -r go && exec "$@"`, "sh"}, command...)...)
	var printed strings.Builder
	cmd.Stdout, cmd.Stderr = &printed, &printed
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err = k.target.Put(uint32(0), killerTarget{PID: uint64(cmd.Process.Pid), At: at}); err != nil {
		t.Error(err)
	}
	if _, err = io.WriteString(in, "go\n"); err != nil {
		t.Error(err)
	}
	err = cmd.Wait()
	var now killerTarget
	if e := k.target.Lookup(uint32(0), &now); e != nil {
		t.Error(e)
	}
	return printed.String(), now.Steps, err
}
