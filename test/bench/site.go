// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
	"github.com/bpfnet/bpfnet/test/lab"
)

const settleTimeout = 20 * time.Second

// site is a mode, standing: two hosts in a lab of their own, and an agent at
// each end of the way between them.
type site struct {
	mode   Mode
	lab    *lab.Lab
	client *traffic.Agent
	server *traffic.Agent
	from   lab.Namespace
	to     lab.Namespace
	addr   netip.Addr  // of the server
	links  []io.Closer // of programs that only this mode has
}

// labName is the name of a mode's lab: the same each time, so that what a run
// that crashed has left is found by the next one.
func labName(mode string) string { return "bench" + strings.ReplaceAll(mode, "-", "") }

// clearLabs removes the labs that a run which was killed has left, of whatever modes. Those of a run that
// goes on are an error.
func clearLabs() error {
	for _, m := range Modes() {
		if err := lab.Down(labName(m.Name)); err != nil {
			return err
		}
	}
	return nil
}

// openSite makes a mode stand and proves that it is that mode. Where that
// fails, nothing of it remains.
func openSite(ctx context.Context, m Mode, binary string) (*site, error) {
	o := lab.Defaults()
	o.Name, o.Backend, o.Containers, o.Binary = labName(m.Name), m.backend, 1, binary
	if m.bare {
		o.Containers = 0
	}
	l, err := lab.Up(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	s := &site{mode: m, lab: l}
	if err := s.open(ctx, binary); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", m.Name, err), s.close())
	}
	return s, nil
}

func (s *site) open(ctx context.Context, binary string) error {
	h1, h2 := s.lab.Hosts[0], s.lab.Hosts[1]
	s.from, s.to, s.addr = h1.NS, h2.NS, h2.Addr
	if !s.mode.bare {
		s.from, s.to, s.addr = h1.Containers[0].NS, h2.Containers[0].NS, h2.Containers[0].Addr
	}
	if err := s.setSysctls(); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	if !s.mode.resident {
		for _, h := range s.lab.Hosts {
			if err := h.StopDaemon(ctx); err != nil {
				return err
			}
		}
	}
	var err error
	if s.client, err = s.startAgent(s.from, binary); err != nil {
		return err
	}
	s.server, err = s.startAgent(s.to, binary)
	return err
}

// connect makes the way between the two ends.
func (s *site) connect(ctx context.Context) error {
	if s.mode.connect != nil {
		return s.mode.connect(s, ctx)
	}
	for _, h := range s.lab.Hosts {
		if err := h.StartDaemon(ctx, append([]string{"--bridge-headroom", "--dataplane", s.mode.dataplane}, s.mode.flags...)...); err != nil {
			return err
		}
	}
	return s.settle(ctx)
}

// route is what host-gw is made of, by hand.
func (s *site) route(ctx context.Context) error {
	h1, h2 := s.lab.Hosts[0], s.lab.Hosts[1]
	for _, c := range []struct{ on, to *lab.Host }{{h1, h2}, {h2, h1}} {
		if err := writeSysctls(c.on.NS, map[string]string{"net/ipv4/ip_forward": "1"}); err != nil {
			return err
		}
		_, err := c.on.NS.Run(ctx, "ip", "route", "add", c.to.Subnet.String(), "via", c.to.Addr.String(), "dev", lab.Uplink)
		if err != nil {
			return err
		}
	}
	return nil
}

// settle waits until both daemons serve each other and know their containers,
// which have to speak first.
func (s *site) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, h := range s.lab.Hosts {
		for _, c := range h.Containers {
			if _, err := c.NS.Ping(ctx, h.Gateway(), lab.PingOptions{Count: 1}); err != nil {
				return err
			}
		}
		err := lab.Until(ctx, h.Name+" serves its peer and knows its container", func() (bool, error) {
			status, err := h.DaemonStatus(ctx)
			known := s.mode.dataplane != dataplaneEBPF || status.Endpoints == len(h.Containers)
			return len(status.Peers) == len(s.lab.Hosts)-1 && known, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// startAgent starts an agent in a namespace.
func (s *site) startAgent(n lab.Namespace, binary string) (*traffic.Agent, error) {
	cmd := exec.Command(binary, "bench", "agent")
	return traffic.Start(cmd, func() error { return s.lab.Start(n, cmd) })
}

// close takes the site down.
func (s *site) close() error {
	var err error
	for _, a := range []*traffic.Agent{s.client, s.server} {
		if a != nil {
			err = errors.Join(err, a.Close())
		}
	}
	for _, l := range s.links {
		err = errors.Join(err, l.Close())
	}
	return errors.Join(err, s.lab.Down())
}
