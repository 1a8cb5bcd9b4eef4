// SPDX-License-Identifier: Apache-2.0

// Package loader brings the datapath into the kernel and keeps it there:
// programs and maps are pinned, adopted by the next daemon, replaced in place
// where they differ, and removed without trace on request.
//
// Under the pin directory:
//
//	maps/NAME               the maps; "settings" is the programs' read-only data
//	maps-new/               maps of another version or size, being filled; becomes maps/ by one exchange
//	maps-old/               what maps/ was, for a moment, where the kernel cannot exchange (before 5.16)
//	links/NETNS/PROGRAM-IFINDEX
//	                        tcx links (kernels without tcx keep clsact filters instead) of the network
//	                        namespace with that inode number
package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

const (
	rodata       = ".rodata"  // the programs' settings, as cilium/ebpf names the section
	settingsPin  = "settings" // and as people see them
	settingsNew  = "settings-new"
	mapsDir      = "maps"
	mapsStageDir = "maps-new"
	mapsOldDir   = "maps-old"
)

// Sizes are the maps' capacities, in entries.
type Sizes struct {
	Routes     uint32
	Hosts      uint32
	Neighbours uint32
	Endpoints  uint32
}

// Options say what to load.
type Options struct {
	PinDir   string               // of EnsurePinDir
	Settings bpf.DatapathSettings // Conntrack is Open's to set
	Sizes    Sizes
	Clsact   bool // attach by clsact even where the kernel has tcx
}

// Datapath is the loaded programs and their maps.
type Datapath struct {
	pinDir   string
	coll     *ebpf.Collection
	attacher attacher
	xdp      *xdp
	staged   bool // maps are pinned in maps-new until Publish, for some of them are new
	resetup  bool // settings differ from the pinned ones
}

// Open loads the programs and their maps. Pinned maps of the same layout and
// size are adopted with all they hold; for others new ones are made beside
// them, and the running programs, of another version perhaps, go on with the
// old ones. Nothing is attached: fill the maps, Attach, then Publish.
func Open(o Options) (*Datapath, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("remove memlock limit: %w", err)
	}
	if err := Probe(); err != nil {
		return nil, err
	}
	types := btf.NewCache()
	if conntrack(types) {
		o.Settings.Conntrack = 1
	}
	spec, err := specFor(o)
	if err != nil {
		return nil, err
	}
	if err = recoverMaps(o.PinDir); err != nil {
		return nil, err
	}
	pinned, err := pinnedMaps(filepath.Join(o.PinDir, mapsDir))
	if err != nil {
		return nil, err
	}
	defer closeMaps(pinned)
	d := &Datapath{pinDir: o.PinDir, attacher: newAttacher(o), xdp: newXDP(o.PinDir, nativeXDP(&o.Settings))}
	reuse := adoptable(spec, pinned, o)
	_, sameSettings := reuse[rodata]
	d.staged = !sameNames(spec, pinned, reuse)
	d.resetup = !d.staged && !sameSettings
	options := ebpf.CollectionOptions{MapReplacements: reuse, Cache: types}
	if o.Settings.Conntrack == 0 {
		options.Programs.KernelTypes = spec.Types // any will do: what reads the kernel's is never reached
	}
	d.coll, err = ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return nil, fmt.Errorf("load the datapath: %w", err)
	}
	if err := errors.Join(fillCPUs(d.coll.Maps["cpus"], &o.Settings), d.stage()); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// specFor is the compiled object with what the options decide filled in.
func specFor(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read the datapath's object: %w", err)
	}
	if err = spec.Variables["config"].Set(&o.Settings); err != nil {
		return nil, fmt.Errorf("set the datapath's settings: %w", err)
	}
	for name, size := range map[string]uint32{
		"routes":      o.Sizes.Routes,
		"route_index": max(1, o.Settings.Ipv4.IndexCount+o.Settings.Ipv6.IndexCount),
		"hosts":       o.Sizes.Hosts,
		"nodes":       o.Sizes.Hosts,
		"neigh":       o.Sizes.Neighbours,
		"fdb":         o.Sizes.Neighbours,
		"endpoints":   o.Sizes.Endpoints,
	} {
		if size == 0 {
			return nil, fmt.Errorf("size map %s: 0 entries", name)
		}
		spec.Maps[name].MaxEntries = size
	}
	setXDP(spec, &o.Settings)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps["cpus"].MaxEntries = uint32(cpus) // the most that the kernel takes
	return spec, nil
}

func pinnedMaps(dir string) (map[string]*ebpf.Map, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pinned maps: %w", err)
	}
	pinned := make(map[string]*ebpf.Map, len(entries))
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			closeMaps(pinned)
			return nil, fmt.Errorf("open pinned map %s: %w", e.Name(), err)
		}
		pinned[e.Name()] = m
	}
	return pinned, nil
}

// standalone are the maps without a host's index: each is adopted by itself. The
// others point to each other, and are adopted all or none.
var standalone = map[string]bool{
	"endpoints": true, "endpoint_index": true, "neigh": true, "nat": true, "counters": true, "cpus": true, "next_hops": true,
}

// adoptable is what of the pinned maps the programs can go on with, by the
// programs' names. The settings are among them only if they say the same.
func adoptable(spec *ebpf.CollectionSpec, pinned map[string]*ebpf.Map, o Options) map[string]*ebpf.Map {
	reuse := make(map[string]*ebpf.Map, len(spec.Maps))
	linked := true
	for name, want := range spec.Maps {
		if name == rodata {
			continue
		}
		m := pinned[name]
		switch {
		case maps.CheckLayout(name, want, m) == nil && want.Compatible(m) == nil:
			reuse[name] = m
		case !standalone[name]:
			linked = false
		}
	}
	old, err := readSettings(spec, pinned)
	// A cpumap is for programs that take packets in several buffers, or for those that do not
	// (bpf_prog_map_compatible() in kernel/bpf/core.c), as its first program was: see setXDP.
	if err != nil || nativeXDP(old) != nativeXDP(&o.Settings) {
		delete(reuse, "cpus")
	}
	if err != nil || !linked || !sameKeys(old, &o.Settings) {
		for name := range reuse {
			if !standalone[name] {
				delete(reuse, name)
			}
		}
		return reuse
	}
	if *old == o.Settings {
		reuse[rodata] = pinned[settingsPin]
	}
	return reuse
}

// sameNames reports whether all that is pinned, settings aside, is adopted, and is all there has to be.
func sameNames(spec *ebpf.CollectionSpec, pinned, reuse map[string]*ebpf.Map) bool {
	for name := range pinned {
		if name != settingsPin && reuse[name] == nil {
			return false
		}
	}
	for name := range spec.Maps {
		if name != rodata && reuse[name] == nil {
			return false
		}
	}
	return true
}

// sameKeys reports whether the entries of routes and route_index mean the same under both settings.
func sameKeys(a, b *bpf.DatapathSettings) bool {
	return a.Network == b.Network && sameWindow(a.Ipv4, b.Ipv4) && sameWindow(a.Ipv6, b.Ipv6)
}

func sameWindow(a, b bpf.DatapathFamily) bool {
	return a.IndexBase == b.IndexBase && a.IndexShift == b.IndexShift &&
		a.IndexFirst == b.IndexFirst && a.IndexCount == b.IndexCount
}

// readSettings are those that the pinned maps were filled by.
func readSettings(spec *ebpf.CollectionSpec, pinned map[string]*ebpf.Map) (*bpf.DatapathSettings, error) {
	m := pinned[settingsPin]
	if err := maps.CheckLayout(settingsPin, spec.Maps[rodata], m); err != nil {
		return nil, err
	}
	s := new(bpf.DatapathSettings)
	if err := m.Lookup(uint32(0), s); err != nil {
		return nil, fmt.Errorf("read pinned settings: %w", err)
	}
	return s, nil
}

// stage pins what is new where it is not taken for the datapath's yet.
func (d *Datapath) stage() error {
	if !d.staged {
		if d.resetup {
			return d.pinSettings()
		}
		return nil
	}
	dir := filepath.Join(d.pinDir, mapsStageDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	for name, m := range d.coll.Maps {
		if name == rodata {
			name = settingsPin
		}
		if err := pin(m, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

func (d *Datapath) pinSettings() error {
	path := filepath.Join(d.pinDir, settingsNew)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove staged settings: %w", err)
	}
	return pin(d.coll.Maps[rodata], path)
}

// pin pins a clone: cilium/ebpf forbids a second Pin of one Map, and these are
// pinned twice for a while, or renamed behind its back.
func pin(m *ebpf.Map, path string) error {
	clone, err := m.Clone()
	if err != nil {
		return err
	}
	return errors.Join(clone.Pin(path), clone.Close())
}

// Publish makes the maps in use the pinned ones, by one rename, and takes off
// what an earlier daemon attached in another way, or a newer one attached
// that this one knows nothing of. Call it when everything is attached.
func (d *Datapath) Publish() error {
	if err := errors.Join(detachAll(d.otherAttacher()), d.attacher.detachUnknown()); err != nil {
		return err
	}
	switch {
	case d.staged:
		if err := publishMaps(d.pinDir); err != nil {
			return err
		}
	case d.resetup:
		pin := filepath.Join(d.pinDir, mapsDir, settingsPin)
		if err := os.Rename(filepath.Join(d.pinDir, settingsNew), pin); err != nil {
			return fmt.Errorf("publish settings: %w", err)
		}
	}
	d.staged, d.resetup = false, false
	return nil
}

// Maps are the datapath's maps by the names in bpf/include/maps.h. They stay
// the Datapath's to close.
func (d *Datapath) Maps() map[string]*ebpf.Map { return d.coll.Maps }

// Close gives back the file descriptors. What is attached and pinned stays and works on.
func (d *Datapath) Close() error {
	d.coll.Close()
	return nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		_ = m.Close() // read-only use: nothing to lose
	}
}
