// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

const linksDir = "links"

// tcx attaches by pinned tcx links (kernel 6.6), which outlive the daemon. A
// link tells its interface's number but not its network namespace, so each
// namespace has a directory of its own: another's links are left alone.
type tcx struct {
	pinDir string
}

// dir holds the links of the network namespace we are in, named by the inode
// of its file, as `readlink /proc/self/ns/net` shows it. A number that comes
// back after its namespace is gone finds links without interface, see openLink.
func (t *tcx) dir() (string, error) {
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return "", fmt.Errorf("identify network namespace: %w", err)
	}
	return filepath.Join(t.pinDir, linksDir, strconv.FormatUint(ns.Ino, 10)), nil
}

func (t *tcx) path(a attachment) (string, error) {
	dir, err := t.dir()
	return filepath.Join(dir, fmt.Sprintf("%s-%d", a.hook.program, a.ifindex)), err
}

func (t *tcx) attach(a attachment, prog *ebpf.Program) error {
	pin, err := t.path(a)
	if err != nil {
		return err
	}
	l, err := openLink(pin, a.ifindex)
	if err != nil {
		return err
	}
	if l != nil {
		return errors.Join(replace(l, prog), l.Close())
	}
	if err = os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	side := ebpf.AttachTCXIngress
	if a.hook.egress {
		side = ebpf.AttachTCXEgress
	}
	l, err = link.AttachTCX(link.TCXOptions{Interface: a.ifindex, Program: prog, Attach: side})
	if err != nil {
		return err
	}
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin link: %w", err), l.Close())
	}
	return l.Close() // the pin holds it
}

// replace makes prog the link's program, unless it is already.
func replace(l link.Link, prog *ebpf.Program) error {
	info, err := l.Info()
	if err != nil {
		return fmt.Errorf("read link info: %w", err)
	}
	old, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("open attached program: %w", err)
	}
	same, err := sameProgram(old, prog)
	if err = errors.Join(err, old.Close()); err != nil || same {
		return err
	}
	if err := l.Update(prog); err != nil {
		return fmt.Errorf("replace program: %w", err)
	}
	return nil
}

// openLink opens the pinned link of an interface. A link whose interface is gone is
// removed: the number may come back for another interface. nil if there is none.
func openLink(pin string, ifindex int) (link.Link, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read link info: %w", err), l.Close())
	}
	if on := info.TCX(); on != nil && int(on.Ifindex) == ifindex {
		return l, nil
	}
	return nil, errors.Join(l.Unpin(), l.Close())
}

// detach takes effect before it returns: a link that only loses its pin is
// taken off some time later (bpf_link_put, kernel/bpf/syscall.c).
func (t *tcx) detach(a attachment) error {
	pin, err := t.path(a)
	if err != nil {
		return err
	}
	l, err := openLink(pin, a.ifindex)
	if err != nil || l == nil {
		return err
	}
	return errors.Join(l.Detach(), l.Unpin(), l.Close())
}

func (t *tcx) list() ([]attachment, error) {
	pins, err := t.pins()
	var all []attachment
	for _, pin := range pins {
		name, number, _ := strings.Cut(pin, "-")
		h, ok := hookByProgram(name)
		ifindex, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue // not ours
		}
		all = append(all, attachment{h, ifindex})
	}
	return all, err
}

func (t *tcx) detachUnknown() error {
	dir, err := t.dir()
	if err != nil {
		return err
	}
	pins, err := t.pins()
	for _, pin := range pins {
		name, _, _ := strings.Cut(pin, "-")
		if _, known := hookByProgram(name); known {
			continue
		}
		if e := detachPinned(filepath.Join(dir, pin)); e != nil {
			err = errors.Join(err, fmt.Errorf("detach %s of another version: %w", pin, e))
		}
	}
	return err
}

func detachPinned(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	return errors.Join(l.Detach(), l.Unpin(), l.Close())
}

// pins are the names of the links pinned for this network namespace.
func (t *tcx) pins() ([]string, error) {
	dir, err := t.dir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}
