// SPDX-License-Identifier: Apache-2.0

// Package lab makes hosts out of network namespaces, each with an uplink to a
// common underlay and containers behind it, and watches what they send:
//
//	bpfnet-lab-h1-c1  bpfnet-lab-h1-c2       bpfnet-lab-h2-c1  bpfnet-lab-h2-c2
//	   eth0 .2           eth0 .3                eth0 .2           eth0 .3
//	     └──── br245 .1 ────┘                     └──── br246 .1 ────┘
//	      172.245.0.0/24                           172.246.0.0/24
//	      bpfnet-lab-h1                            bpfnet-lab-h2
//	           eth0 192.168.32.245                      eth0 192.168.32.246
//	             └─────────────── bpfnet-lab-wire ────────────┘
//
// A lab is known by its name alone: once the process that made it has ended, any other
// can take it down, at whatever point of making or of taking it down that one was killed.
// Everything needs root.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const stateDir = "/run/bpfnet-lab"

// ErrNotUp says that there is no lab of that name.
var ErrNotUp = errors.New("lab is not up")

// ErrUp says that there is a lab of that name already.
var ErrUp = errors.New("lab is up already")

// ErrLeft says that not all of a lab could be removed.
var ErrLeft = errors.New("not all of it was removed")

// Lab is a lab that is up.
type Lab struct {
	Options Options
	Kept    bool // it outlives the process that made it
	Hosts   []*Host
}

// Up makes a lab without daemons, which is this process's alone: once that has ended, however it did, the
// lab is debris, unless it is kept (Keep). Debris of that name goes first. Where Up fails, or ctx ends, nothing remains.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	first, err := own(o.Name)
	if err != nil {
		return nil, err
	}
	if !first {
		return nil, fmt.Errorf("%w: %s", ErrUp, o.Name)
	}
	if old, e := Open(o.Name); e == nil && old.Kept {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrUp, o.Name), disown(o.Name))
	}
	l := &Lab{Options: o}
	if err = clearDebris(o.Name); err == nil {
		err = l.create(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, Down(o.Name))
	}
	return l, nil
}

// Keep lets the lab outlive this process, and others take it down.
func (l *Lab) Keep() error {
	l.Kept = true
	if err := l.save(); err != nil {
		return err
	}
	return disown(l.Options.Name)
}

func (l *Lab) create(ctx context.Context) error {
	if err := l.save(); err != nil {
		return err
	}
	if err := l.createWire(); err != nil {
		return err
	}
	for range l.Options.Hosts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := l.AddHost(); err != nil {
			return err
		}
	}
	return nil
}

// Open returns a lab that is up, made by this or another process.
func Open(name string) (*Lab, error) {
	data, err := os.ReadFile(statePath(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotUp, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read state of lab %s: %w", name, err)
	}
	l := Lab{Kept: true} // where nothing is said of it, as by earlier builds
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("read state of lab %s: %w", name, err)
	}
	for _, h := range l.Hosts {
		h.lab = &l
	}
	return &l, nil
}

// Down removes a lab with all that it made, also one half made or half
// removed: it needs no state. That there is none is no error. One of another
// process that is alive is ErrInUse; where something remains, the error is ErrLeft.
func Down(name string) error {
	if !validName.MatchString(name) {
		return nil // never was one
	}
	if _, err := own(name); err != nil {
		return fmt.Errorf("take lab %s down: %w", name, err)
	}
	err := clearDebris(name)
	if err == nil {
		err = removeLocks(name)
	}
	if err = errors.Join(err, disown(name)); err != nil {
		return fmt.Errorf("take lab %s down: %w: %w", name, ErrLeft, err)
	}
	return nil
}

// clearDebris removes all of a lab but its locks. Of a step that is not done, all before it can be done again.
func clearDebris(name string) error {
	if err := os.Remove(statePath(name)); err != nil && !errors.Is(err, os.ErrNotExist) { // from here on it is not kept
		return fmt.Errorf("remove state: %w", err)
	}
	processes, err := endProcesses(name)
	if err != nil {
		return err
	}
	defer processes.Close() //nolint:errcheck // a lock
	dirs, err := filepath.Glob(filepath.Join(dirOf(name), "h*"))
	for _, dir := range dirs {
		h := &Host{Name: filepath.Base(dir), Dir: dir}
		err = errors.Join(err, h.killRecorded(), h.removeDatapath())
	}
	all, e := namespacesOf(name)
	err = errors.Join(err, e)
	for _, n := range all {
		err = errors.Join(err, n.remove())
	}
	if err = errors.Join(err, removeTemp(name)); err != nil {
		return err
	}
	return removeFiles(name)
}

// removeFiles removes what is in a lab's directory but the locks.
func removeFiles(name string) error {
	files, err := os.ReadDir(dirOf(name))
	for _, f := range files {
		if f.Name() != ownerLock && f.Name() != processesLock {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dirOf(name), f.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}

// removeLocks removes the locks and the directory of them. Once there is no owner's lock, somebody may make another.
func removeLocks(name string) error {
	for _, path := range []string{filepath.Join(dirOf(name), processesLock), filepath.Join(dirOf(name), ownerLock), dirOf(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove state: %w", err)
		}
	}
	_ = os.Remove(stateDir) // stays while there are other labs
	return nil
}

// tempLink is a link in a lab's directory to one for files that are too large for it.
const tempLink = "tmp"

// TempDir makes a directory for large files, which goes with the lab. There is one at most.
func (l *Lab) TempDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("bpfnet-lab-%s-%016x", l.Options.Name, rand.Uint64()))
	err := os.Symlink(dir, filepath.Join(l.dir(), tempLink)) // before there is anything to remove
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return "", fmt.Errorf("create directory of lab %s: %w", l.Options.Name, err)
	}
	return dir, nil
}

func removeTemp(name string) error {
	dir, err := os.Readlink(filepath.Join(dirOf(name), tempLink))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("remove temporary files: %w", err)
	}
	return nil
}

// Down removes the lab.
func (l *Lab) Down() error { return Down(l.Options.Name) }

// Find returns the namespace of a host, "h1", or of a container, "h1/c1".
func (l *Lab) Find(path string) (Namespace, error) {
	for _, h := range l.Hosts {
		if path == h.Name {
			return h.NS, nil
		}
		for _, c := range h.Containers {
			if path == h.Name+"/"+c.Name {
				return c.NS, nil
			}
		}
	}
	return "", fmt.Errorf("no %q in lab %s: give a host (h1) or a container (h1/c1)", path, l.Options.Name)
}

func dirOf(name string) string     { return filepath.Join(stateDir, name) }
func statePath(name string) string { return filepath.Join(dirOf(name), "state.json") }
func (l *Lab) dir() string         { return dirOf(l.Options.Name) }

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state of lab %s: %w", l.Options.Name, err)
	}
	if err := renameio.WriteFile(statePath(l.Options.Name), data, 0o644); err != nil {
		return fmt.Errorf("write state of lab %s: %w", l.Options.Name, err)
	}
	return nil
}

func (l *Lab) progress(format string, args ...any) {
	if l.Options.Progress != nil {
		l.Options.Progress(fmt.Sprintf(format, args...))
	}
}

// Until waits until done says so, looking again and again.
func Until(ctx context.Context, what string, done func() (bool, error)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}

// inEmptyNamespace runs f in a network namespace that ends with it.
func inEmptyNamespace(f func() error) error {
	return onThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		return errors.Join(f(), ns.Close())
	})
}
