// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Count is what an agent's half has done, and what its machine has spent, up
// to a moment.
type Count struct {
	Ops   uint64 // datagrams, requests or connections, done
	Bytes uint64 // of payload
	Nudge uint64 // requests sent again since an answer did not come

	At    time.Duration // CLOCK_MONOTONIC
	Busy  time.Duration // time that the CPUs of the machine were not idle, by all, added up
	Steal time.Duration // time that the CPUs were kept from running by a hypervisor
	Boot  string        // which machine: its boot's id
	CPUs  int           // that the machine has, whichever of them this process may run on
}

// Since is what was added since an earlier count.
func (c Count) Since(before Count) Count {
	c.Ops -= before.Ops
	c.Bytes -= before.Bytes
	c.Nudge -= before.Nudge
	c.At -= before.At
	c.Busy -= before.Busy
	c.Steal -= before.Steal
	return c
}

var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
})

// ReadMachine is a Count of the machine alone.
func ReadMachine() (c Count, err error) {
	if c.Boot, err = bootID(); err != nil {
		return c, fmt.Errorf("read boot id: %w", err)
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c, fmt.Errorf("read CPU time: %w", err)
	}
	var ts unix.Timespec
	if err = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return c, fmt.Errorf("read clock: %w", err)
	}
	t, err := parseStat(stat)
	if err != nil {
		return c, err
	}
	c.At = time.Duration(ts.Nano())
	c.Steal, c.CPUs = t.steal, t.cpus
	// Idle time is measured; the kernel's split of the rest is only sampled, at each tick.
	c.Busy = c.At*time.Duration(t.cpus) - t.idle - t.steal
	return c, nil
}

// cpuTimes is what /proc/stat says of all CPUs together.
type cpuTimes struct {
	cpus        int
	idle, steal time.Duration
}

const userTick = time.Second / 100 // USER_HZ (proc_stat(5)): 100 on all of Go's Linux ports

func parseStat(stat []byte) (t cpuTimes, err error) {
	const idle, iowait, steal = 4, 5, 8 // fields of the first line
	for line := range bytes.Lines(stat) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || !strings.HasPrefix(fields[0], "cpu") {
			continue
		}
		if fields[0] != "cpu" {
			t.cpus++
			continue
		}
		for field, sum := range map[int]*time.Duration{idle: &t.idle, iowait: &t.idle, steal: &t.steal} {
			if len(fields) <= field {
				return t, errors.New("malformed /proc/stat: a field is missing")
			}
			ticks, err := strconv.ParseUint(fields[field], 10, 53)
			if err != nil {
				return t, fmt.Errorf("malformed /proc/stat: %w", err)
			}
			*sum += time.Duration(ticks) * userTick
		}
	}
	if t.cpus == 0 {
		return t, errors.New("malformed /proc/stat: no CPU")
	}
	return t, nil
}
