// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Cores are the CPUs that this process may run on, one of each physical core;
// where there is one core only, all of its.
func Cores() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("get CPU affinity: %w", err)
	}
	var all, cores []int
	taken := map[string]bool{}
	for cpu := range len(set) * strconv.IntSize {
		if !set.IsSet(cpu) {
			continue
		}
		all = append(all, cpu)
		siblings := siblingsOf(cpu)
		if !taken[siblings] {
			taken[siblings] = true
			cores = append(cores, cpu)
		}
	}
	if len(cores) < 2 {
		return all, nil
	}
	return cores, nil
}

// siblingsOf names the physical core of a CPU by the CPUs it has ("0,64"); a
// machine that does not tell has a core for each.
func siblingsOf(cpu int) string {
	b, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu))
	if err != nil {
		return strconv.Itoa(cpu)
	}
	return strings.TrimSpace(string(b))
}

// Pin keeps the calling goroutine on one thread, and that on one CPU. The
// thread ends with the goroutine.
func Pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}
