// SPDX-License-Identifier: Apache-2.0

//go:build root

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/maps/dump"
)

func mustMaps(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// emptyRunDir is a run directory with a bpffs that anyone may look for, but only root into. It is in a
// mount namespace of the test's thread, and goes with it.
func emptyRunDir(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread() // and never unlocked
	mustMaps(t, unix.Unshare(unix.CLONE_NEWNS))
	mustMaps(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	mustMaps(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"))
	const dir = "/run/bpfnet-maps-test"
	mustMaps(t, os.MkdirAll(filepath.Join(dir, "bpf"), 0o755))
	mustMaps(t, unix.Mount("bpffs", filepath.Join(dir, "bpf"), "bpf", 0, "mode=0700"))
	return dir
}

// pinMaps pins a datapath's maps under a run directory, as the loader does.
func pinMaps(t *testing.T, runDir string) {
	t.Helper()
	mustMaps(t, rlimit.RemoveMemlock())
	spec, err := bpf.LoadDatapath()
	mustMaps(t, err)
	spec.Programs = nil
	coll, err := ebpf.NewCollection(spec)
	mustMaps(t, err)
	defer coll.Close()
	set, err := maps.NewSet(coll.Maps)
	mustMaps(t, err)
	mustMaps(t, set.Nodes.Put(netip.MustParseAddr("192.168.32.246"), 2))
	dir := filepath.Join(runDir, "bpf", "maps")
	mustMaps(t, os.Mkdir(dir, 0o700))
	for name, m := range coll.Maps {
		if name == ".rodata" {
			name = "settings"
		}
		mustMaps(t, m.Pin(filepath.Join(dir, name)))
	}
}

// runMaps runs `bpfnet maps ARGS`.
func runMaps(runDir string, args ...string) (string, error) {
	var out bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append([]string{"maps", "--run-dir", runDir}, args...))
	root.SetOut(&out)
	root.SetErr(io.Discard)
	err := root.Execute()
	return out.String(), err
}

func TestMapsCommands(t *testing.T) {
	dir := emptyRunDir(t)
	pinMaps(t, dir)
	for _, tt := range []struct {
		args []string
		want string // first line
	}{
		{[]string{"list"}, "NAME            TYPE           USED                KEY -> VALUE                         WRITER"},
		{[]string{"dump", "nodes"}, "NODE            HOST"},
		{[]string{"dump", "routes"}, "(no entries)"},
		{[]string{"dump"}, "routes: which host a destination belongs to"},
		{[]string{"dump", "nodes", "-o", "yaml"}, "- host: 2"},
		{[]string{"dump", "nodes", "-o", "json"}, "["},
	} {
		out, err := runMaps(dir, tt.args...)
		if first, _, _ := strings.Cut(out, "\n"); err != nil || first != tt.want {
			t.Errorf("maps %v: %v, %q, want %q", tt.args, err, first, tt.want)
		}
	}
	out, err := runMaps(dir, "dump", "-o", "json")
	mustMaps(t, err)
	var all map[string][]map[string]any
	mustMaps(t, json.Unmarshal([]byte(out), &all))
	if len(all) != len(dump.Names())-2 { // route_index is shown with routes, endpoint_index with endpoints
		t.Errorf("%d tables, of %v", len(all), dump.Names())
	}
	if nodes := all["nodes"]; len(nodes) != 1 || nodes[0]["node"] != "192.168.32.246" {
		t.Errorf("nodes: %v", nodes)
	}
}

func TestMapsErrors(t *testing.T) {
	dir := emptyRunDir(t)
	check := func(want string, args ...string) {
		t.Helper()
		if _, err := runMaps(dir, args...); err == nil || err.Error() != want {
			t.Errorf("maps %v: %v, want %s", args, err, want)
		}
	}
	none := "no datapath under " + dir + ": is the daemon's --run-dir another?"
	check(none, "dump")
	check(none, "list")
	pinMaps(t, dir)
	check(`unknown map "node": the maps are `+strings.Join(dump.Names(), ", "), "dump", "node")
	check(`unknown output format "xml": the formats are table, json, yaml`, "dump", "-o", "xml")
	asNobody(t, func() {
		check("no permission to read the maps under "+dir+": run as root", "dump", "routes")
	})
	mustMaps(t, unix.Unmount(filepath.Join(dir, "bpf"), 0))
	check(none, "dump")
}

// asNobody calls f with the rights of nobody.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	become := func(uid int) {
		keep := -1
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(keep), uintptr(uid), uintptr(keep)); errno != 0 {
			t.Fatal(errno)
		}
	}
	become(65534)
	defer become(0)
	f()
}

func TestMapsCompletion(t *testing.T) {
	dump, _, err := newMapsCommand().Find([]string{"dump"})
	mustMaps(t, err)
	if !slices.Contains(dump.ValidArgs, "routes") {
		t.Errorf("dump completes to %v", dump.ValidArgs)
	}
}
