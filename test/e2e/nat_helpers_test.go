// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// natRules adds rules to a host's nat table. They are taken away at the test's
// end, or by the function returned.
func natRules(t *testing.T, h *lab.Host, protocol string, rules ...string) (remove func()) {
	t.Helper()
	change := func(ctx context.Context, verb string) error {
		for _, rule := range rules {
			rule = strings.ReplaceAll(rule, "PROTOCOL", protocol)
			_, err := h.NS.Run(ctx, strings.Fields("iptables-nft -w -t nat "+verb+" "+rule)...)
			if err != nil {
				return err
			}
		}
		return nil
	}
	noError(t, change(t.Context(), "-A"))
	there := true
	remove = func() {
		if !there {
			return
		}
		there = false
		if err := change(context.Background(), "-D"); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(remove)
	return remove
}

// waitNAT waits until a host's programs ask conntrack. Where the first rule has
// loaded conntrack into the kernel, they have to be loaded anew for that.
func waitNAT(t *testing.T, h *lab.Host) {
	t.Helper()
	until(t, "the programs ask conntrack", func() (bool, error) {
		set, err := h.Maps()
		if err != nil {
			return false, err
		}
		mode, err := set.NAT.Get()
		return mode == maps.NATConntrack && set.Settings.Conntrack, errors.Join(err, set.Close())
	})
}

func natMode(t *testing.T, h *lab.Host) maps.NATMode {
	t.Helper()
	set, err := h.Maps()
	noError(t, err)
	mode, err := set.NAT.Get()
	noError(t, errors.Join(err, set.Close()))
	return mode
}

// echo answers TCP and UDP at an address with what comes, until the test ends.
func echo(t *testing.T, ns lab.Namespace, at netip.AddrPort) {
	t.Helper()
	l, err := ns.Listen(t.Context(), "tcp4", at.String())
	noError(t, err)
	p := listenPacket(t, ns, "udp4", at.String())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // likewise
			}()
		}
	}()
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = p.WriteTo(buf[:n], from) // the client says what is missing
		}
	}()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// exchange sends 2 MiB to an echo, and has them come back.
func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	noError(t, exchangeWith(conn))
}

func exchangeWith(conn net.Conn) error {
	sent := randomBytes(2 << 20)
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	writing := inBackground(func() error { _, err := conn.Write(sent); return err })
	got := make([]byte, len(sent))
	_, err := io.ReadFull(conn, got)
	if err = errors.Join(err, <-writing.err); err != nil {
		return fmt.Errorf("exchange with %s: %w", conn.RemoteAddr(), err)
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("exchange with %s: other bytes came back", conn.RemoteAddr())
	}
	return nil
}

// datagrams sends one of each size to an echo, and has each come back.
func datagrams(t *testing.T, from lab.Namespace, to netip.AddrPort, sizes ...int) {
	t.Helper()
	conn, err := from.Dial(t.Context(), "udp4", to.String())
	noError(t, err)
	defer conn.Close()
	noError(t, conn.SetDeadline(time.Now().Add(timeout)))
	for _, size := range sizes {
		sent, got := randomBytes(size), make([]byte, 65536)
		_, err := conn.Write(sent)
		noError(t, err)
		n, err := conn.Read(got)
		noError(t, err)
		if !slices.Equal(got[:n], sent) {
			t.Fatalf("%d bytes to %s: %d others came back", size, to, n)
		}
	}
}
