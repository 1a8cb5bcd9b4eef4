// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/maps"
)

// Maps opens the maps of the host's datapath, to read them. Close the set.
func (h *Host) Maps() (*maps.Set, error) {
	dir, err := loader.PinDir(h.Dir)
	if err != nil {
		return nil, fmt.Errorf("open maps of %s: %w", h.Name, err)
	}
	set, err := maps.OpenPinned(filepath.Join(dir, "maps"))
	if err != nil {
		return nil, fmt.Errorf("open maps of %s: %w", h.Name, err)
	}
	return set, nil
}

// CounterKey is what packets are counted by.
type CounterKey struct{ Program, Verdict, Reason string }

// Compare orders keys by program, then verdict, then reason.
func (k CounterKey) Compare(o CounterKey) int {
	return cmp.Or(cmp.Compare(k.Program, o.Program), cmp.Compare(k.Verdict, o.Verdict), cmp.Compare(k.Reason, o.Reason))
}

// Counters are the packets that the host's programs have counted.
type Counters map[CounterKey]uint64

// Counters reads the host's counters.
func (h *Host) Counters() (Counters, error) {
	set, err := h.Maps()
	if err != nil {
		return nil, err
	}
	c, err := CountersOf(set)
	if err = errors.Join(err, set.Close()); err != nil {
		return nil, fmt.Errorf("read counters of %s: %w", h.Name, err)
	}
	return c, nil
}

// CountersOf reads the counters of maps that are open.
func CountersOf(set *maps.Set) (Counters, error) {
	counts, err := set.Counters.Read()
	c := make(Counters, len(counts))
	for _, n := range counts {
		c[CounterKey{n.Program, n.Verdict, n.Reason}] = n.Packets
	}
	return c, err
}

// Since is what has been counted since an earlier reading; what did not move is not in it.
func (c Counters) Since(before Counters) Counters {
	moved := make(Counters)
	for k, n := range c {
		if d := n - before[k]; d != 0 {
			moved[k] = d
		}
	}
	return moved
}
