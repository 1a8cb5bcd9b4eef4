// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// processesLock is a file in a lab's directory that the lab's processes have open, as memberFD, and locked together
// (flock(2)). Such a lock goes from a process to its children with the open file, from the moment of the fork on: as
// long as one of them lives that anybody has started for the lab, recorded or not, it is held.
const processesLock = "processes"

const memberFD = 3 // the first of exec.Cmd's ExtraFiles

// Start starts a command inside a namespace as a process of the lab, which Down kills with all its children,
// whoever calls that and whatever has become of this process.
func (l *Lab) Start(n Namespace, cmd *exec.Cmd) error {
	return l.start(cmd, func() error { return n.Do(cmd.Start) })
}

// start has run start the command.
func (l *Lab) start(cmd *exec.Cmd, run func() error) error {
	f, err := join(l.Options.Name)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // the command has it now
	cmd.ExtraFiles = []*os.File{f}
	return run()
}

// join opens and locks what makes a process that inherits it one of the lab.
func join(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dirOf(name), processesLock), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotUp, name)
	}
	if err != nil {
		return nil, fmt.Errorf("join lab %s: %w", name, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil && !inPlace(f) {
		err = ErrNotUp
	}
	if err != nil { // EWOULDBLOCK: it is being taken down
		return nil, errors.Join(fmt.Errorf("join lab %s: %w", name, err), f.Close())
	}
	return f, nil
}

// endProcesses kills all processes of a lab and waits until they have ended. Until the
// file that it returns is closed, none can be started.
func endProcesses(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dirOf(name), processesLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("end processes of lab %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err = Until(ctx, "all have ended", func() (bool, error) {
		lockErr := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(lockErr, unix.EWOULDBLOCK) {
			return false, killMembers(ctx, f)
		}
		return lockErr == nil, lockErr
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("end processes of lab %s: %w", name, err), f.Close())
	}
	return f, nil
}

// killMembers kills those processes that have inherited the file. One between fork and exec is left to become one of them.
func killMembers(ctx context.Context, f *os.File) error {
	var file unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &file); err != nil {
		return err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if !isMember(proc, &file) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(proc)) // as it was matched
		p, _, identifyErr := identify(pid)
		if identifyErr != nil || !isMember(proc, &file) { // it has ended; asked again, for the number may be another's by now
			continue
		}
		err = errors.Join(err, p.end(ctx, unix.SIGKILL))
	}
	return err
}

// isMember reports whether a process has the file open as memberFD, and not for itself alone (close-on-exec).
func isMember(proc string, file *unix.Stat_t) bool {
	var have unix.Stat_t
	if unix.Stat(fmt.Sprintf("%s/fd/%d", proc, memberFD), &have) != nil || have.Dev != file.Dev || have.Ino != file.Ino {
		return false
	}
	info, err := os.ReadFile(fmt.Sprintf("%s/fdinfo/%d", proc, memberFD))
	return err == nil && inherited(info)
}

// inherited reads from /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)) whether an exec leaves the file open.
func inherited(fdinfo []byte) bool {
	for line := range bytes.Lines(fdinfo) {
		f := bytes.Fields(line)
		if len(f) == 2 && string(f[0]) == "flags:" {
			flags, err := strconv.ParseUint(string(f[1]), 8, 32)
			return err == nil && flags&unix.O_CLOEXEC == 0
		}
	}
	return false
}
