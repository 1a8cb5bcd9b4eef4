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

// links are the pinned links of tc or of XDP, which outlive the daemon. A link
// tells its interface's number but not its network namespace, so each
// namespace has a directory of its own: another's links are left alone.
type links struct {
	pinDir string
	xdp    bool // those of XDP, else those of tc
}

// dir holds the links of the network namespace we are in, named by the inode
// of its file, as `readlink /proc/self/ns/net` shows it. A number that comes
// back after its namespace is gone finds links without interface, see openLink.
func (l *links) dir() (string, error) {
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return "", fmt.Errorf("identify network namespace: %w", err)
	}
	return filepath.Join(l.pinDir, linksDir, strconv.FormatUint(ns.Ino, 10)), nil
}

func (l *links) path(a attachment) (string, error) {
	dir, err := l.dir()
	return filepath.Join(dir, fmt.Sprintf("%s-%d", a.hook.program, a.ifindex)), err
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

// pinLink pins a link and gives back its descriptor.
func pinLink(l link.Link, pin string) error {
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin link: %w", err), l.Close())
	}
	return l.Close() // the pin holds it
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
	if tc := info.TCX(); tc != nil && int(tc.Ifindex) == ifindex {
		return l, nil
	}
	if xdp := info.XDP(); xdp != nil && int(xdp.Ifindex) == ifindex {
		return l, nil
	}
	return nil, errors.Join(l.Unpin(), l.Close())
}

// detach takes effect before it returns: a link that only loses its pin is
// taken off some time later (bpf_link_put, kernel/bpf/syscall.c).
func (l *links) detach(a attachment) error {
	pin, err := l.path(a)
	if err != nil {
		return err
	}
	pinned, err := openLink(pin, a.ifindex)
	if err != nil || pinned == nil {
		return err
	}
	return errors.Join(pinned.Detach(), pinned.Unpin(), pinned.Close())
}

func (l *links) list() ([]attachment, error) {
	pins, err := l.pins()
	var all []attachment
	for _, pin := range pins {
		name, number, _ := strings.Cut(pin, "-")
		h, ok := hookByProgram(name)
		ifindex, e := strconv.Atoi(number)
		if !ok || e != nil || h.xdp != l.xdp {
			continue // not ours
		}
		all = append(all, attachment{h, ifindex})
	}
	return all, err
}

func (l *links) detachUnknown() error {
	dir, err := l.dir()
	if err != nil {
		return err
	}
	pins, err := l.pins()
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
func (l *links) pins() ([]string, error) {
	dir, err := l.dir()
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
