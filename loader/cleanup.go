// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/maps"
)

// Cleanup takes the datapath of a run directory out of the kernel: programs
// off their interfaces, pins away, the bpffs unmounted. That nothing is there
// is no error. Filters are those of the network namespace it is called in,
// pins are gone whatever namespace their links are in.
func Cleanup(runDir string) error {
	runDir, err := filepath.Abs(runDir)
	if err != nil {
		return fmt.Errorf("resolve run directory: %w", err)
	}
	// Filters stay without pins: somebody may have unmounted the bpffs.
	return errors.Join(removePins(runDir), detachAll(clsact{}))
}

// Unload takes the programs of a run directory off the interfaces of this
// network namespace, one after the other in the order of hooks, and then their
// maps away. The run directory stays as it is. That nothing is there is no error.
func Unload(runDir string) error {
	dir, err := PinDir(runDir)
	if errors.Is(err, maps.ErrNoDatapath) {
		return detachAll(clsact{})
	}
	if err != nil {
		return err
	}
	if err := errors.Join(detachXDP(dir), detachAll(clsact{}), detachAll(newTCX(dir))); err != nil {
		return err
	}
	return removeAll(dir, mapsDir, mapsStageDir, mapsOldDir, settingsNew)
}

func removePins(runDir string) error {
	mount := filepath.Join(runDir, bpffsDir)
	dir, err := PinDir(runDir)
	switch {
	case errors.Is(err, maps.ErrNoDatapath):
		return removeEmpty(mount)
	case err != nil:
		return err
	}
	err = errors.Join(detachXDP(dir), detachAll(clsact{}), detachAll(newTCX(dir)), removeAll(dir, linksDir, mapsDir, mapsStageDir, mapsOldDir, settingsNew))
	return errors.Join(err, unmountForAll(mount), removeEmpty(mount))
}

func removeAll(dir string, names ...string) error {
	var err error
	for _, name := range names {
		if e := os.RemoveAll(filepath.Join(dir, name)); e != nil {
			err = errors.Join(err, fmt.Errorf("remove pins: %w", e))
		}
	}
	return err
}

// removeEmpty removes a directory unless something of others is in it.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return fmt.Errorf("remove mount point: %w", err)
}

func detachAll(c attacher) error {
	all, err := c.list()
	if err != nil {
		return fmt.Errorf("list attached programs: %w", err)
	}
	slices.SortFunc(all, func(x, y attachment) int { return cmp.Compare(rank(x.hook.program), rank(y.hook.program)) })
	for _, a := range all {
		if e := c.detach(a); e != nil {
			err = errors.Join(err, fmt.Errorf("detach %s from interface %d: %w", a.hook.program, a.ifindex, e))
		}
	}
	return err
}
