// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a process which is alive makes the lab, works with it, or takes it down.
var ErrInUse = errors.New("lab is in use")

// ownerLock is a file in a lab's directory, locked by the process whose lab it is. The lock is a record lock
// (fcntl_locking(2)): it goes with the process, however that ends, and no child has it, not even one that is
// just being forked. Who gets it may take for debris whatever else is there of the lab.
const ownerLock = "owner"

// owned are the labs of this process: it would get the lock of one of them again.
var owned = struct {
	sync.Mutex
	locks map[string]*os.File
}{locks: map[string]*os.File{}}

// own makes this process the owner of a lab, of which there need not be anything. first is false where it
// is that already. A lab of another process is ErrInUse.
func own(name string) (first bool, err error) {
	owned.Lock()
	defer owned.Unlock()
	if f := owned.locks[name]; f != nil && inPlace(f) {
		return false, nil
	}
	f, err := lockOwner(name)
	if err != nil {
		return false, err
	}
	owned.locks[name] = f
	return true, nil
}

// disown lets others have the lab. That it is not owned is no error.
func disown(name string) error {
	owned.Lock()
	defer owned.Unlock()
	f := owned.locks[name]
	if f == nil {
		return nil
	}
	delete(owned.locks, name)
	if err := f.Close(); err != nil {
		return fmt.Errorf("unlock lab %s: %w", name, err)
	}
	return nil
}

// lockOwner makes the lab's directory and takes the lock in it. Its last owner may be removing both.
func lockOwner(name string) (*os.File, error) {
	for {
		f, err := tryLockOwner(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock lab %s: %w", name, err)
		}
		if f != nil {
			return f, nil
		}
	}
}

// tryLockOwner returns neither a file nor an error where the one that it has locked, or that another had, is gone.
func tryLockOwner(name string) (*os.File, error) {
	if err := os.MkdirAll(dirOf(name), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dirOf(name), ownerLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		holder := unix.Flock_t{Type: unix.F_WRLCK}
		err = unix.FcntlFlock(f.Fd(), unix.F_GETLK, &holder)
		if err == nil && holder.Type != unix.F_UNLCK {
			err = inUseBy(holder.Pid)
		}
		return nil, errors.Join(err, f.Close())
	}
	if err == nil && inPlace(f) {
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// inUseBy is the error of a lab that a process has, whose number is 0 in another PID namespace
// (locks_translate_pid() in fs/locks.c).
func inUseBy(pid int32) error {
	if pid <= 0 {
		return fmt.Errorf("%w by a process of another PID namespace: end that first", ErrInUse)
	}
	return fmt.Errorf("%w by process %d: end that first", ErrInUse, pid)
}

// inPlace reports whether an open file is still the one of its name.
func inPlace(f *os.File) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(f.Name())
	return err == nil && os.SameFile(opened, named)
}
