// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Cleanup takes the datapath of a run directory out of the kernel: programs
// off their interfaces, pins away, the bpffs unmounted. That nothing is there
// is no error. It acts in the network namespace it is called in.
func Cleanup(runDir string) error {
	dir, err := PinDir(runDir)
	if err != nil {
		return nil //nolint:nilerr // no bpffs: nothing was loaded
	}
	err = detachAll(clsact{})
	for _, sub := range []string{linksDir, mapsDir, mapsStageDir, settingsNew} {
		if e := os.RemoveAll(filepath.Join(dir, sub)); e != nil {
			err = errors.Join(err, fmt.Errorf("remove pins: %w", e))
		}
	}
	return errors.Join(err, unmountForAll(filepath.Join(runDir, "bpf")))
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
