// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

// Machine is where, and how, a report was made.
type Machine struct {
	Time        time.Time         `json:"time"`
	Kernel      string            `json:"kernel"`
	Arch        string            `json:"arch"`
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"`           // of the machine
	Cores       []int             `json:"cores"`          // the CPUs that sender and receiver were pinned to
	Governor    string            `json:"governor"`       // of CPU frequency; "none" where the kernel governs none
	Mitigations map[string]string `json:"mitigations"`    // /sys/devices/system/cpu/vulnerabilities
	Sysctls     map[string]string `json:"sysctls"`        // of a host's network namespace
	Offloads    map[string]bool   `json:"offloads"`       // of the uplink (between given hosts: of this one, towards the first target), where no load says otherwise
	Background  float64           `json:"background"`     // share of all CPUs' time that others took before the first round or after any, at most
	Steal       float64           `json:"steal"`          // share of all CPUs' time that a hypervisor took meanwhile
	Rounds      int               `json:"rounds"`         // that were measured
	Duration    float64           `json:"duration"`       // seconds, of each measurement
	Peer        string            `json:"peer,omitempty"` // the other host, where there are two
}

// DescribeMachine is the machine, the cores that a run will use, and what others
// do there just now.
func DescribeMachine(ctx context.Context) (Machine, error) {
	m := Machine{Time: time.Now().UTC().Truncate(time.Second), Arch: runtime.GOARCH, Governor: "none"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("read kernel version: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	cores, err := traffic.Cores()
	if err != nil {
		return m, err
	}
	m.Cores = cores[:min(2, len(cores))]
	m.CPU = cpuModel()
	if g, failed := readLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); failed == nil {
		m.Governor = g
	}
	m.Mitigations = readDir("/sys/devices/system/cpu/vulnerabilities")
	m.Sysctls = readSysctls()
	now, err := traffic.ReadMachine()
	if err != nil {
		return m, err
	}
	m.CPUs = now.CPUs
	m.Background, err = background(ctx)
	return m, err
}

// describe adds what holds for a host of the lab; some of the sysctls are the
// machine's, and not to be seen from there.
func (s *site) describe(m *Machine) (err error) {
	h := s.lab.Hosts[0]
	err = h.NS.Do(func() error {
		maps.Copy(m.Sysctls, readSysctls())
		return nil
	})
	if err == nil {
		m.Offloads, err = uplink(h).features(slices.Values(reported))
	}
	return err
}

// cpuModel is the first CPU's name, or its architecture's where it has none.
func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range bytes.Lines(info) {
			if key, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func readLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// readDir reads the files of a directory, by name; those that cannot be read are left out.
func readDir(dir string) map[string]string {
	all := map[string]string{}
	paths, _ := filepath.Glob(filepath.Join(dir, "*")) // fails only for a bad pattern
	for _, p := range paths {
		if v, err := readLine(p); err == nil {
			all[filepath.Base(p)] = v
		}
	}
	return all
}
