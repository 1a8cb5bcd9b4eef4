// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	kernel "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/loader"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// freezeMaps makes every map of a host's datapath one that user space cannot
// write any more (BPF_MAP_FREEZE): a daemon that tries has a problem. What the
// programs write, they still can. There is no way back.
func freezeMaps(t *testing.T, h *lab.Host) {
	t.Helper()
	forEachPin(t, h, "maps", func(name, path string) {
		if slices.Contains([]string{"settings", "counters", "events", "next_hops"}, name) {
			return // frozen from the start; the programs' alone
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		noError(t, err)
		defer m.Close()
		noError(t, m.Freeze())
		if err := m.Put(make([]byte, m.KeySize()), make([]byte, m.ValueSize())); !errors.Is(err, os.ErrPermission) {
			t.Fatalf("map %s can still be written: %v", name, err)
		}
	})
}

// forEachPin calls f for each pin in a directory of a host's bpffs and below.
func forEachPin(t *testing.T, h *lab.Host, dir string, f func(name, path string)) {
	t.Helper()
	root, err := loader.PinDir(h.Dir)
	if errors.Is(err, maps.ErrNoDatapath) {
		return
	}
	noError(t, err)
	noError(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			f(e.Name(), path)
		}
		return err
	}))
}

// kernelEvents hears what changes in a host's kernel: links, addresses, routes,
// neighbours, FDB, and what is attached.
type kernelEvents struct {
	host   *lab.Host
	socket *nl.NetlinkSocket
}

func watchKernel(t *testing.T, h *lab.Host) *kernelEvents {
	t.Helper()
	e := &kernelEvents{host: h}
	noError(t, h.NS.Do(func() (err error) {
		e.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
			unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC)
		return err
	}))
	t.Cleanup(e.socket.Close)
	return e
}

// none fails the test if anything was announced since the last call. What the
// kernel does by itself with the neighbours it has learned is no news.
func (e *kernelEvents) none(t *testing.T) {
	t.Helper()
	noError(t, e.socket.SetReceiveTimeout(&unix.Timeval{Usec: 1}))
	for {
		messages, _, err := e.socket.Receive()
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		noError(t, err)
		for _, m := range messages {
			if text := e.describe(m.Header.Type, m.Data); text != "" {
				t.Errorf("%s: the kernel announced: %s", e.host.Name, text)
			}
		}
	}
}

func (e *kernelEvents) describe(kind uint16, data []byte) string {
	if kind != unix.RTM_NEWNEIGH && kind != unix.RTM_DELNEIGH {
		return fmt.Sprintf("message of type %d: %x", kind, data)
	}
	n, err := netlink.NeighDeserialize(data)
	if err != nil {
		return err.Error()
	}
	overlay := 0
	_ = e.host.NS.Do(func() error { // where there is none, all are learned ones
		link, err := netlink.LinkByName(kernel.OverlayName)
		if err == nil {
			overlay = link.Attrs().Index
		}
		return err
	})
	if n.LinkIndex != overlay && n.State&unix.NUD_PERMANENT == 0 {
		return ""
	}
	return fmt.Sprintf("neighbour %+v", *n)
}
