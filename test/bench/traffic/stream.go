// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// acceptOne takes one connection of the flow's port and runs a half on it.
func (f *flow) acceptOne(run func(fd int) error) error {
	fd, err := accept(f.fd)
	if err != nil {
		return fmt.Errorf("accept connection: %w", err)
	}
	f.conn.Store(int64(fd) + 1)
	if f.stopped.Load() { // stop may have looked before
		shut(fd)
	}
	err = errors.Join(noDelay(fd), run(fd))
	f.conn.Store(0)
	return errors.Join(err, unix.Close(fd))
}

// sendStream sends the rest of a write at once: held back by Nagle's algorithm,
// it would be cut at a full segment, and how many packets a write comes to would
// be decided by how a mode's MTU divides it.
func sendStream(f *flow) error {
	if err := noDelay(f.fd); err != nil {
		return err
	}
	b := make([]byte, f.spec.Size)
	for {
		n, err := send(f.fd, b)
		if err != nil {
			return fmt.Errorf("send: %w", err)
		}
		f.done(n)
	}
}

func receiveStream(f *flow) error {
	return f.acceptOne(func(fd int) error {
		b := make([]byte, 2*f.spec.Size)
		for {
			n, err := receive(fd, b)
			if n == 0 && err == nil || diallerGone(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			f.done(n)
		}
	})
}

// diallerGone reports whether a listening half ended because the other one did,
// which is stopped first.
func diallerGone(err error) bool {
	return slices.ContainsFunc([]error{io.EOF, unix.ECONNRESET, unix.ECONNREFUSED, unix.EPIPE}, func(e error) bool {
		return errors.Is(err, e)
	})
}

func askTCP(f *flow) error {
	if err := noDelay(f.fd); err != nil {
		return err
	}
	b := make([]byte, f.spec.Size)
	for {
		if err := ask(f.fd, b); err != nil {
			return err
		}
		f.done(len(b))
	}
}

func ask(fd int, b []byte) error {
	if _, err := send(fd, b); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	if err := receiveFull(fd, b); err != nil {
		return fmt.Errorf("receive answer: %w", err)
	}
	return nil
}

func answerTCP(f *flow) error {
	return f.acceptOne(func(fd int) error {
		b := make([]byte, f.spec.Size)
		for {
			err := answer(fd, b)
			if diallerGone(err) {
				return nil
			}
			if err != nil {
				return err
			}
			f.done(len(b))
		}
	})
}

func answer(fd int, b []byte) error {
	if err := receiveFull(fd, b); err != nil {
		return fmt.Errorf("receive request: %w", err)
	}
	if _, err := send(fd, b); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

// receiveFull fills b. Its error is io.EOF where the connection ended.
func receiveFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := receive(fd, b)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.EOF
		}
		b = b[n:]
	}
	return nil
}

// askByConnections makes a connection for each request. The listener closes
// first, so that waiting for stray segments (TIME-WAIT) is on its side, where
// it holds no port.
func askByConnections(f *flow) error {
	b := make([]byte, f.spec.Size)
	for !f.stopped.Load() {
		fd, err := dial(f.to, false)
		if err != nil {
			return err
		}
		err = ask(fd, b)
		if err == nil {
			err = ended(fd)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
		f.done(len(b))
	}
	return nil
}

// ended waits for the end of a connection.
func ended(fd int) error {
	var b [1]byte
	n, err := receive(fd, b[:])
	if err != nil {
		return fmt.Errorf("wait for the end of the connection: %w", err)
	}
	if n != 0 {
		return errors.New("more than the answer came")
	}
	return nil
}

func answerConnections(f *flow) error {
	b := make([]byte, f.spec.Size)
	for {
		err := f.acceptOne(func(fd int) error { return answer(fd, b) })
		if err != nil {
			return err
		}
		f.done(len(b))
	}
}
