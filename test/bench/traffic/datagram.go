// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	batch = 64 // datagrams a system call

	// The receiver of a flood looks for what has come this often, rather than be
	// woken: each wake-up would be the sender's work.
	floodNap = 100_000 // ns
)

func askUDP(f *flow) error {
	b := make([]byte, f.spec.Size)
	for !f.stopped.Load() {
		if err := ask(f.fd, b); err != nil {
			return err
		}
		f.done(len(b))
	}
	return nil
}

// answerUDP connects to whoever asks first.
func answerUDP(f *flow) error {
	b := make([]byte, f.spec.Size)
	_, from, err := unix.Recvfrom(f.fd, b, unix.MSG_PEEK)
	if err == nil && from != nil {
		err = unix.Connect(f.fd, from)
	}
	if err != nil {
		return fmt.Errorf("wait for the first request: %w", err)
	}
	for !f.stopped.Load() {
		err := answer(f.fd, b)
		if diallerGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		f.done(len(b))
	}
	return nil
}

func sendFlood(f *flow) error {
	m := messages(batch, f.spec.Size)
	for !f.stopped.Load() {
		n, err := sendMessages(f.fd, m)
		if err != nil {
			return fmt.Errorf("send datagrams: %w", err)
		}
		f.doneMany(n, uint64(n*f.spec.Size))
	}
	return nil
}

func receiveFlood(f *flow) error {
	m := messages(batch, f.spec.Size)
	for !f.stopped.Load() {
		n, err := receiveMessages(f.fd, m)
		if errors.Is(err, unix.EAGAIN) {
			nap(floodNap)
			continue
		}
		if err != nil {
			return fmt.Errorf("receive datagrams: %w", err)
		}
		f.doneMany(n, lengths(m[:n]))
	}
	return nil
}

func lengths(m []message) (sum uint64) {
	for i := range m {
		sum += uint64(m[i].length)
	}
	return sum
}
