// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/test/lab"
)

// version is another version of bpfnet: the same but for some lines of its C
// sources. Nothing of what it was may be taken for what it is.
type version struct {
	name    string
	changes []change
	anew    []string // maps that cannot be adopted from, or by, the one tested here
}

// change replaces what a pattern matches, once, in a file of bpf/include.
type change struct{ file, pattern, with string }

var linkedMaps = []string{"hosts", "templates", "routes", "route_index", "nodes", "fdb", "events"}

var versions = []version{
	{
		"programs", []change{
			{"verdict.h", `\(count & 0xffff\) == 0`, `(count & 0x1ffff) == 0`}, // in every program
		}, nil,
	},
	{
		"fields of the same size", []change{
			{"types.h", `struct mac mac; (/\*.*\*/\n)\tstruct mac gateway;`, "struct mac gateway; ${1}\tstruct mac mac;"},
			{"types.h", `struct addr node; (/\*.*\*/\n)\tstruct addr next_hop;`, "struct addr next_hop; ${1}\tstruct addr node;"},
		}, append([]string{"endpoints", "endpoint_index"}, linkedMaps...),
	},
	{
		"sizes", []change{
			{"types.h", `(__u8 header\[HEADER_MAX\];\n)`, "${1}\t__u64 future;\n"},
			{"types.h", `(struct ip_key \{\n)`, "${1}\t__u32 future;\n"},
			{"types.h", `(?m)^_Static_assert\(sizeof\(struct (host|ip_key)\).*\n`, ""},
			{"maps.h", `(struct settings \{\n)`, "${1}\t__u64 future;\n"},
			{"maps.h", `(#include "types.h"\n)`, "${1}\nstruct {\n\t__uint(type, BPF_MAP_TYPE_HASH);\n\t__uint(max_entries, 8);\n" +
				"\t__type(key, __u32);\n\t__type(value, __u32);\n} future SEC(\".maps\");\n"},
		}, append([]string{"endpoints", "neigh", "cpus"}, linkedMaps...),
	},
}

// TestUpgrade has both hosts' daemons killed and another version started, and
// back again, under two pings of 1,000/s that cross. What the other version
// cannot read is made anew and filled before its programs take the place of
// those that ran on it; what it can, stays.
//
//	as in TestRestart
func TestUpgrade(t *testing.T) {
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			binary := buildVersion(t, v)
			forEach(t, modesOf(node.EBPF, topology.EncapVXLAN, topology.EncapUDP), nil, func(t *testing.T, l *lab.Lab) {
				there, back := crossing(t, l.Hosts[0], l.Hosts[1])
				for _, to := range []string{binary, bpfnetBinary, binary, bpfnetBinary} {
					upgrade(t, l, to, v.anew)
					there.more(20)
					back.more(20)
				}
				there.intact()
				back.intact()
			})
		})
	}
}

// upgrade starts another version on all hosts, each while the other runs.
func upgrade(t *testing.T, l *lab.Lab, binary string, anew []string) {
	t.Helper()
	l.Options.Binary = binary
	for _, h := range slices.Backward(l.Hosts) {
		before := pinsOf(t, h)
		noError(t, h.KillDaemon())
		noError(t, h.StartDaemon(t.Context()))
		waitPeers(t, h, 1)
		waitAttached(t, l, h, kernelWay(t))
		after := pinsOf(t, h)
		for link, program := range after.Programs {
			if after.Links[link] != before.Links[link] || program == before.Programs[link] {
				t.Errorf("%s: link %s was %d with program %d, is %d with %d; want another program in the same link", h.Name,
					link, before.Links[link], before.Programs[link], after.Links[link], program)
			}
		}
		for name := range before.Maps {
			if now, ok := after.Maps[name]; ok && name != "settings" && (now != before.Maps[name]) != slices.Contains(anew, name) {
				t.Errorf("%s: map %s was %d, is %d; want anew: %q", h.Name, name, before.Maps[name], now, anew)
			}
		}
		if _, err := os.Stat(stagedMaps(t, h)); !os.IsNotExist(err) {
			t.Errorf("%s: the maps on which nothing runs any more are still pinned (%v)", h.Name, err)
		}
	}
}

// TestKilledInMidUpgrade kills the newer version's daemon while it fills its
// maps, and after its first programs have taken their places, and starts either
// version. Whatever is left half done is finished, or undone.
//
//	as in TestRestart
func TestKilledInMidUpgrade(t *testing.T) {
	newer := buildVersion(t, versions[2])
	forEach(t, modesOf(node.EBPF, topology.EncapVXLAN), nil, func(t *testing.T, l *lab.Lab) {
		h := l.Hosts[1]
		there, back := crossing(t, l.Hosts[0], h)
		for point, reached := range map[string]func(before datapath) bool{
			"its maps are there": func(datapath) bool { return staged(t, h) },
			"its first program runs": func(before datapath) bool {
				return slices.ContainsFunc(attachedPrograms(t, h), func(p attachedProgram) bool {
					id, _ := p.info.ID()
					return !slices.Contains(programIDs(before), id)
				})
			},
		} {
			for _, next := range []string{bpfnetBinary, newer} {
				before := pinsOf(t, h)
				noError(t, h.KillDaemon())
				l.Options.Binary = newer
				started := inBackground(func() error { return h.StartDaemon(t.Context()) })
				until(t, point, func() (bool, error) { // not before the lab knows whom to kill
					return h.DaemonAlive() && reached(before) || started.ended(), nil
				})
				noError(t, h.KillDaemon())
				<-started.err
				there.more(20)

				l.Options.Binary = next
				noError(t, h.StartDaemon(t.Context()))
				waitPeers(t, h, 1)
				waitAttached(t, l, h, kernelWay(t))
				if staged(t, h) {
					t.Errorf("%s: the maps on which nothing runs any more are still pinned", point)
				}
				noError(t, h.KillDaemon())
				l.Options.Binary = bpfnetBinary
				noError(t, h.StartDaemon(t.Context()))
				waitPeers(t, h, 1)
				there.more(20)
				back.more(20)
			}
		}
		there.intact()
		back.intact()
	})
}

func programIDs(d datapath) (ids []ebpf.ProgramID) {
	for _, id := range d.Programs {
		ids = append(ids, id)
	}
	return ids
}

func staged(t *testing.T, h *lab.Host) bool {
	t.Helper()
	entries, err := os.ReadDir(stagedMaps(t, h))
	return err == nil && len(entries) > 0
}

func stagedMaps(t *testing.T, h *lab.Host) string {
	t.Helper()
	dir, err := loader.PinDir(h.Dir)
	noError(t, err)
	return filepath.Join(dir, "maps-new")
}

// buildVersion compiles the C sources with its changes, and a bpfnet that has
// them instead of its own. It takes the C compiler that `make generate` does.
func buildVersion(t *testing.T, v version) (binary string) {
	t.Helper()
	dir := t.TempDir()
	source, err := filepath.Abs("../../bpf")
	noError(t, err)
	noError(t, os.CopyFS(dir, os.DirFS(source)))
	for _, c := range v.changes {
		replaceOnce(t, filepath.Join(dir, "include", c.file), c.pattern, c.with)
	}
	directive, err := os.ReadFile(filepath.Join(source, "doc.go"))
	noError(t, err)
	_, generate, _ := strings.Cut(string(directive), "//go:generate go tool ")
	generate, _, _ = strings.Cut(generate, "\n")
	args := strings.Fields(generate)
	tool, err := exec.CommandContext(t.Context(), "go", "tool", "-n", args[0]).Output()
	noError(t, err)
	bpf2go := exec.CommandContext(t.Context(), strings.TrimSpace(string(tool)), args[1:]...)
	bpf2go.Dir, bpf2go.Env = dir, append(os.Environ(), "GOPACKAGE=bpf")
	execute(t, bpf2go)

	overlay := map[string]map[string]string{"Replace": {}}
	for _, file := range []string{"datapath_bpfel.go", "datapath_bpfel.o"} {
		overlay["Replace"][filepath.Join(source, file)] = filepath.Join(dir, file)
	}
	data, err := json.Marshal(overlay)
	noError(t, err)
	noError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), data, 0o644))
	binary, err = lab.Build(t.Context(), dir, "-overlay", filepath.Join(dir, "overlay.json"))
	noError(t, err)
	return binary
}

func execute(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
}

func replaceOnce(t *testing.T, file, pattern, with string) {
	t.Helper()
	text, err := os.ReadFile(file)
	noError(t, err)
	re := regexp.MustCompile(pattern)
	if n := len(re.FindAll(text, -1)); n == 0 {
		t.Fatalf("%s: nothing matches %q: adapt the version", filepath.Base(file), pattern)
	}
	noError(t, os.WriteFile(file, re.ReplaceAll(text, []byte(with)), 0o644))
}
