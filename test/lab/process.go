// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that stays itself when its number is given to another:
// a pid and the time of its start, in clock ticks since boot.
type process struct {
	PID   int
	Start uint64
}

const zombie = 'Z' // the state of a process that has ended but was not waited for

func identify(pid int) (p process, state byte, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, 0, fmt.Errorf("identify process: %w", err)
	}
	start, state, err := parseStat(stat)
	if err != nil {
		return p, 0, fmt.Errorf("identify process %d: %w", pid, err)
	}
	return process{pid, start}, state, nil
}

// parseStat reads a process's start time and state from /proc/PID/stat
// (proc_pid_stat(5)). Its second field, the name, may hold spaces and parentheses.
func parseStat(stat []byte) (start uint64, state byte, err error) {
	_, rest, _ := bytes.Cut(stat, []byte(" ("))
	if i := bytes.LastIndexByte(rest, ')'); i >= 0 {
		rest = rest[i+1:]
	}
	fields := bytes.Fields(rest) // from the third on
	const stateField, startField = 3, 22
	if len(fields) <= startField-stateField || len(fields[0]) != 1 {
		return 0, 0, errors.New("malformed /proc/PID/stat")
	}
	start, err = strconv.ParseUint(string(fields[startField-stateField]), 10, 64)
	return start, fields[0][0], err
}

func (p process) alive() bool {
	now, state, err := identify(p.PID)
	return err == nil && now == p && state != zombie
}

// end signals the process and waits for its end. That it has ended is no error.
func (p process) end(ctx context.Context, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	if !p.alive() {      // looked at after the open: what fd refers to can no longer change
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, p.PID, err)
	}
	if err := waitReadable(ctx, fd); err != nil {
		return fmt.Errorf("wait for process %d to end after %v: %w", p.PID, sig, err)
	}
	return nil
}

// waitReadable waits for what a pidfd becomes when its process ends.
func waitReadable(ctx context.Context, fd int) error {
	const slice = 50 * time.Millisecond
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(slice.Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
