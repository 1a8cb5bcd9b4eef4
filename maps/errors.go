// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull is the error, by errors.Is, of a Put that found no room. The message
// names the map, its size and the flag that raises it.
var ErrFull = errors.New("map is full")

// FullError says which map has no room for another entry.
type FullError struct {
	Map  string
	Size uint32 // entries
	Flag string // of the daemon, raises Size
}

func (e *FullError) Error() string {
	return fmt.Sprintf("map %s is full (%d entries): raise %s", e.Map, e.Size, e.Flag)
}

// Is makes errors.Is(err, ErrFull) true.
func (*FullError) Is(target error) bool { return target == ErrFull }

// sizeFlags are the daemon's flags that size the maps.
var sizeFlags = map[string]string{
	"routes":    "--max-routes",
	"hosts":     "--max-hosts",
	"nodes":     "--max-hosts",
	"neigh":     "--max-neighbours",
	"fdb":       "--max-neighbours",
	"endpoints": "--max-endpoints",
}

func fullError(name string, m *ebpf.Map) error {
	return &FullError{Map: name, Size: m.MaxEntries(), Flag: sizeFlags[name]}
}

// isFull reports whether an update failed for want of room: E2BIG of hashes
// and arrays (kernel/bpf/hashtab.c, arraymap.c), ENOSPC of tries (lpm_trie.c).
func isFull(err error) bool { return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) }
