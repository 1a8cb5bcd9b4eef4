// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
	return errors.Join(detachAll(clsact{}), removePins(runDir))
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
	for _, sub := range []string{linksDir, mapsDir, mapsStageDir, mapsOldDir, settingsNew} {
		if e := os.RemoveAll(filepath.Join(dir, sub)); e != nil {
			err = errors.Join(err, fmt.Errorf("remove pins: %w", e))
		}
	}
	return errors.Join(err, unmountForAll(mount), removeEmpty(mount))
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
	for _, a := range all {
		if e := c.detach(a); e != nil {
			err = errors.Join(err, fmt.Errorf("detach %s from interface %d: %w", a.hook.program, a.ifindex, e))
		}
	}
	return err
}
