// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// tcx attaches by tcx links (kernel 6.6).
type tcx struct{ links }

func newTCX(pinDir string) *tcx { return &tcx{links{pinDir: pinDir}} }

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
	return pinLink(l, pin)
}
