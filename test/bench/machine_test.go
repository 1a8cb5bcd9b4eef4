// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

const describing = "BPFNET_TEST_DESCRIBE" // in the environment of this test's child

// TestMachineOfOneCPU: who may run on one CPU only (taskset, a cpuset) still tells of the whole machine.
func TestMachineOfOneCPU(t *testing.T) {
	if os.Getenv(describing) != "" {
		m, err := DescribeMachine(t.Context())
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	out, err := onOneCPU(exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$"))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var m Machine
	if err = json.NewDecoder(strings.NewReader(string(out))).Decode(&m); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	here, err := traffic.ReadMachine()
	if err != nil {
		t.Fatal(err)
	}
	if m.CPUs != here.CPUs || len(m.Cores) != 1 || m.Background > 1 {
		t.Errorf("%d CPUs, others take %.2f of them, pinned to %v; want %d, at most all, and one", m.CPUs, m.Background, m.Cores, here.CPUs)
	}
}

// onOneCPU runs a command on the first CPU that this process may run on.
func onOneCPU(cmd *exec.Cmd) (out []byte, err error) {
	cmd.Env = append(os.Environ(), describing+"=1")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		cores, failed := traffic.Cores()
		if failed != nil {
			err = failed
			return
		}
		var one unix.CPUSet
		one.Set(cores[0])
		if err = unix.SchedSetaffinity(0, &one); err == nil {
			out, err = cmd.Output() // a child has its parent thread's affinity
		}
	}()
	<-done
	return out, err
}
