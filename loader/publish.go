// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// publishMaps puts maps-new/ in the place of maps/ and removes what was there.
func publishMaps(pinDir string) error {
	dir, staged := filepath.Join(pinDir, mapsDir), filepath.Join(pinDir, mapsStageDir)
	if err := os.Rename(staged, dir); err == nil { // works where dir is missing
		return nil
	}
	err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) { // a bpffs can since kernel 5.16 (simple_rename in fs/libfs.c)
		return replaceMaps(pinDir)
	}
	if err != nil {
		return fmt.Errorf("publish maps: %w", err)
	}
	return removeMaps(staged)
}

// replaceMaps is publishMaps in two renames, between which there is no maps/:
// recoverMaps mends what a kill leaves there.
func replaceMaps(pinDir string) error {
	dir, old := filepath.Join(pinDir, mapsDir), filepath.Join(pinDir, mapsOldDir)
	if err := os.Rename(dir, old); err != nil {
		return fmt.Errorf("put replaced maps aside: %w", err)
	}
	if err := os.Rename(filepath.Join(pinDir, mapsStageDir), dir); err != nil {
		return fmt.Errorf("publish maps: %w", err)
	}
	return removeMaps(old)
}

// recoverMaps removes what a daemon killed before or while it published has
// left, and puts back what it had put aside.
func recoverMaps(pinDir string) error {
	dir, old := filepath.Join(pinDir, mapsDir), filepath.Join(pinDir, mapsOldDir)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(old, dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("put back maps: %w", err)
		}
	}
	return errors.Join(removeMaps(old), removeMaps(filepath.Join(pinDir, mapsStageDir)))
}

func removeMaps(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove replaced maps: %w", err)
	}
	return nil
}
