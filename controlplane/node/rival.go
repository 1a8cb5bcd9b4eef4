// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// checkRivals refuses to work beside another daemon of the same network
// namespace: flanneld, or a bpfnet with another run directory. They would take
// devices, routes and lease from each other. One in another PID namespace is not seen.
func checkRivals() error {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return nil //nolint:nilerr // without /proc there is nothing to see
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, dir := range dirs {
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		name := daemonName(dir)
		if name == "" || name == anotherBpfnet && startOf(dir) >= startOf("/proc/self") {
			continue // of two bpfnet daemons the later gives way
		}
		if theirs, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && theirs == ours {
			return fmt.Errorf("%s runs in this network namespace, as process %s: stop it first", name, filepath.Base(dir))
		}
	}
	return nil
}

// daemonName is what a process of that directory of /proc is called, if it is
// such a daemon; "" for all others, and for one that is gone.
func daemonName(dir string) string {
	exe, _ := os.Readlink(filepath.Join(dir, "exe")) // a kernel thread has none
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	return daemonOf(filepath.Base(exe), line)
}

// daemonOf tells by the name of the executable and the command line, whose
// arguments end in a NUL each (proc(5)). flanneld may be a link to bpfnet.
func daemonOf(exe string, line []byte) string {
	args := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
	called := filepath.Base(string(args[0]))
	switch {
	case exe == "flanneld" || called == "flanneld":
		return "flanneld"
	case exe == "bpfnet" && slices.ContainsFunc(args, func(a []byte) bool { return string(a) == "daemon" }):
		return anotherBpfnet
	}
	return ""
}

const anotherBpfnet = "another bpfnet daemon"

// startOf is when a process began, in ticks since the machine's start (field 22
// of /proc/PID/stat, proc(5)); 0 where that cannot be told.
func startOf(dir string) uint64 {
	stat, _ := os.ReadFile(filepath.Join(dir, "stat"))                            // the process may be gone
	_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" ")) // its name may hold anything
	const fields = 22 - 3                                                         // the rest begins with the third
	parts := bytes.Fields(rest)
	if len(parts) <= fields {
		return 0
	}
	ticks, _ := strconv.ParseUint(string(parts[fields]), 10, 64)
	return ticks
}
