// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
)

// Names of the maps that are not the name of a pin or of a map in the object.
const (
	settingsName = "settings"
	rodata       = ".rodata" // as cilium/ebpf names the section that holds the settings
)

// ErrNoDatapath is the error, by errors.Is, of OpenPinned where nothing is pinned.
var ErrNoDatapath = errors.New("no datapath")

// Set is all the maps of a datapath.
type Set struct {
	Routes    *Routes
	Hosts     *Hosts
	Templates *Hosts
	Nodes     *Nodes
	Neigh     *Neigh
	FDB       *FDB
	Endpoints *Endpoints
	NAT       *NAT
	Counters  *Counters
	Events    *Events
	Settings  *Settings // read once
	owned     []io.Closer
}

// NewSet is the view of maps by their names in bpf/include/maps.h; the
// settings go by "settings" or ".rodata". The maps stay the caller's to close.
func NewSet(m map[string]*ebpf.Map) (*Set, error) {
	spec, err := datapathSpec()
	if err != nil {
		return nil, err
	}
	byName := make(map[string]*ebpf.Map, len(spec.Maps))
	for name, want := range spec.Maps {
		have := m[name]
		if name == rodata {
			name = settingsName
			if have == nil {
				have = m[name]
			}
		}
		if err = CheckLayout(name, want, have); err != nil {
			return nil, err
		}
		byName[name] = have
	}
	settings, err := readSettings(byName[settingsName])
	if err != nil {
		return nil, err
	}
	return &Set{
		Routes:    newRoutes(byName["routes"], byName["route_index"], settings),
		Hosts:     newHosts(byName["hosts"]),
		Templates: newTemplates(byName["templates"]),
		Nodes:     newNodes(byName["nodes"]),
		Neigh:     newNeigh(byName["neigh"]),
		FDB:       newFDB(byName["fdb"]),
		Endpoints: newEndpoints(byName["endpoints"], byName["endpoint_index"], settings.Network),
		NAT:       &NAT{byName["nat"]},
		Counters:  &Counters{byName["counters"]},
		Events:    &Events{byName["events"]},
		Settings:  settings,
	}, nil
}

// OpenPinned opens the maps pinned in a directory, to read them: no daemon
// need run. The error is ErrNoDatapath where there are none, and
// fs.ErrPermission where they may not be read. Close the set.
func OpenPinned(dir string) (*Set, error) { return openPinned(dir, true) }

// AdoptPinned is OpenPinned to write, for who holds the run directory's lock.
func AdoptPinned(dir string) (*Set, error) { return openPinned(dir, false) }

// openPinned opens the maps of one directory: a daemon that upgrades puts another in its place, and removes it.
func openPinned(path string, readOnly bool) (*Set, error) {
	for {
		dir, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w pinned in %s", ErrNoDatapath, path)
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned maps: %w", err)
		}
		set, err := openDir(dir, readOnly)
		again := errors.Is(err, os.ErrNotExist) && replaced(dir, path)
		if err = errors.Join(err, dir.Close()); !again {
			return set, err
		}
	}
}

// replaced reports whether a directory is no longer, or was never, the one of that path.
func replaced(dir *os.File, path string) bool {
	then, err := dir.Stat()
	now, e := os.Stat(path)
	return err == nil && (errors.Is(e, os.ErrNotExist) || e == nil && !os.SameFile(then, now))
}

func openDir(dir *os.File, readOnly bool) (*Set, error) {
	spec, err := datapathSpec()
	if err != nil {
		return nil, err
	}
	var owned []io.Closer
	maps := make(map[string]*ebpf.Map, len(spec.Maps))
	for name, ms := range spec.Maps {
		if name == rodata {
			name = settingsName
		}
		// Who reads the ring also writes how far it got.
		options := &ebpf.LoadPinOptions{ReadOnly: readOnly && ms.Type != ebpf.RingBuf}
		maps[name], err = ebpf.LoadPinnedMap(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name), options)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open pinned map %s: %w", name, err), closeAll(owned))
		}
		owned = append(owned, maps[name])
	}
	set, err := NewSet(maps)
	if err != nil {
		return nil, errors.Join(err, closeAll(owned))
	}
	set.owned = owned
	return set, nil
}

// Close closes the maps that OpenPinned opened.
func (s *Set) Close() error { return closeAll(s.owned) }

func closeAll(closers []io.Closer) error {
	var errs error
	for _, c := range closers {
		errs = errors.Join(errs, c.Close())
	}
	return errs
}
