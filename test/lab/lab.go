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
// A lab is known by its name alone: any process can open it and take it down,
// also after the one that made it has crashed. Everything needs root.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netns"
)

const stateDir = "/run/bpfnet-lab"

// ErrNotUp says that there is no lab of that name.
var ErrNotUp = errors.New("lab is not up")

// ErrUp says that there is a lab of that name already.
var ErrUp = errors.New("lab is up already")

// Lab is a lab that is up.
type Lab struct {
	Options Options
	Owner   process // who made it
	Hosts   []*Host
}

// Up makes a lab without daemons. Where that fails, or ctx ends, nothing of it remains.
func Up(ctx context.Context, o Options) (*Lab, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	owner, err := self()
	if err != nil {
		return nil, err
	}
	l := &Lab{Options: o, Owner: owner}
	if err := l.claim(); err != nil {
		return nil, err
	}
	if err := l.create(ctx); err != nil {
		return nil, errors.Join(err, Down(o.Name))
	}
	return l, nil
}

// claim makes the lab's directory, which only one process can.
func (l *Lab) claim() error {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	err := os.Mkdir(l.dir(), 0o755)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: %s", ErrUp, l.Options.Name)
	}
	if err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	return nil
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
	var l Lab
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, fmt.Errorf("read state of lab %s: %w", name, err)
	}
	for _, h := range l.Hosts {
		h.lab = &l
	}
	return &l, nil
}

// Down removes a lab with all that it made, also one half made or half
// removed: it needs no state. That there is none is no error.
func Down(name string) error {
	if !validName.MatchString(name) {
		return nil // never was one
	}
	dirs, err := filepath.Glob(filepath.Join(stateDir, name, "h*"))
	for _, dir := range dirs {
		h := &Host{Name: filepath.Base(dir), Dir: dir}
		err = errors.Join(err, h.KillDaemon(), h.removeDatapath())
	}
	all, e := namespacesOf(name)
	err = errors.Join(err, e)
	for _, n := range all {
		err = errors.Join(err, n.remove())
	}
	if err != nil {
		return fmt.Errorf("take lab %s down: %w", name, err)
	}
	if err := os.RemoveAll(filepath.Join(stateDir, name)); err != nil {
		return fmt.Errorf("remove state of lab %s: %w", name, err)
	}
	_ = os.Remove(stateDir) // stays while there are other labs
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

// Abandoned reports whether the process that made the lab has ended.
func (l *Lab) Abandoned() bool { return !l.Owner.alive() }

func (l *Lab) dir() string         { return filepath.Join(stateDir, l.Options.Name) }
func statePath(name string) string { return filepath.Join(stateDir, name, "state.json") }

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
