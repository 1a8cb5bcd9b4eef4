// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	demoLab      = "demo"
	demoPings    = 4
	demoInterval = 200 * time.Millisecond
	demoWidth    = 100
	demoPatience = 10 * time.Second // with a machine that has other things to do
)

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch containers on two hosts talk through VXLAN, then IPIP",
		Long: "Makes two hosts out of network namespaces, with two containers and a daemon each, pings across\n" +
			"them in vxlan and in ipip mode, shows a packet as captured on the uplink and the map entries that\n" +
			"made it, and cleans up.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := labNeeds(); err != nil {
				return err
			}
			binary, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			// A terminal that goes away is no reason not to clean up.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			outliveReader()
			d := &demo{w: cmd.OutOrStdout(), paint: newPainter(cmd.OutOrStdout()), binary: binary}
			return d.run(ctx)
		},
	}
}

// demo is one run of the demonstration. What it prints fits demoWidth.
type demo struct {
	w      io.Writer
	paint  painter
	binary string
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.w, format, args...) }

func (d *demo) run(ctx context.Context) error {
	start := time.Now()
	d.printf("%s", demoTopology)
	for _, mode := range []topology.Encap{topology.EncapVXLAN, topology.EncapIPIP} {
		if err := d.show(ctx, mode); err != nil {
			return fmt.Errorf("%s: %w", mode, err)
		}
	}
	d.printf("\nDone in %.1f s, and all of it removed. To look around yourself: bpfnet lab up\n", time.Since(start).Seconds())
	return nil
}

const demoTopology = `Two hosts, two containers on each:

     h1/c1 172.245.0.2    h1/c2 172.245.0.3         h2/c1 172.246.0.2    h2/c2 172.246.0.3
              └─────── br245 ───────┘                        └─────── br246 ───────┘
               h1  eth0 192.168.32.245                        h2  eth0 192.168.32.246
                          └───────────────── underlay ──────────────────┘
`

// show is the demonstration of one mode. It leaves nothing behind.
func (d *demo) show(ctx context.Context, mode topology.Encap) error {
	start := time.Now()
	d.heading(string(mode))
	o := lab.Defaults()
	o.Name, o.Backend, o.Binary = demoLab, mode, d.binary
	l, err := lab.Up(ctx, o)
	if errors.Is(err, lab.ErrUp) {
		return fmt.Errorf("%w: take it down (bpfnet lab down%s)", err, nameFlag(o.Name))
	}
	if err != nil {
		return err
	}
	err = l.StartDaemons(ctx)
	if err == nil {
		d.printf("Two hosts and their daemons are up, etcd on h1: %.1f s.\n", time.Since(start).Seconds())
		err = d.watch(ctx, l)
	}
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted, and all of it removed")
	}
	return errors.Join(err, l.Down())
}

// watch shows what there is to see in a lab.
func (d *demo) watch(ctx context.Context, l *lab.Lab) error {
	if err := d.reachAll(ctx, l); err != nil {
		return err
	}
	before, err := countersOf(l)
	if err != nil {
		return err
	}
	packet, err := d.ping(ctx, l)
	if err != nil {
		return err
	}
	return d.explain(l, packet, before)
}

func (d *demo) heading(text string) {
	line := strings.Repeat("─", demoWidth-len(text)-4)
	d.printf("\n%s\n", d.paint.bold("── "+text+" "+line))
}

// reachAll pings from every container to every one of the other host. By the
// time it is done, the daemons know their containers' addresses.
func (d *demo) reachAll(ctx context.Context, l *lab.Lab) error {
	h1, h2 := l.Hosts[0].Containers, l.Hosts[1].Containers
	ways, answered := 0, 0
	for _, side := range [][2][]*lab.Container{{h1, h2}, {h2, h1}} {
		for _, from := range side[0] {
			for _, to := range side[1] {
				r, err := from.NS.Ping(ctx, to.Addr, lab.PingOptions{Count: 1, Interval: time.Millisecond, Timeout: demoPatience})
				if err != nil {
					return err
				}
				ways++
				answered += r.Received
			}
		}
	}
	if answered < ways {
		return fmt.Errorf("%d of %d pings between the hosts' containers were not answered", ways-answered, ways)
	}
	d.printf("Every container has pinged every one of the other host: %d of %d answered.\n", answered, ways)
	return waitForEndpoints(ctx, l)
}

// waitForEndpoints waits until the datapath knows every container.
func waitForEndpoints(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	for _, h := range l.Hosts {
		err := lab.Until(ctx, "the containers of "+h.Name+" are known", func() (bool, error) {
			s, err := h.DaemonStatus(ctx)
			return s.Endpoints == len(h.Containers), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ping pings across the hosts, as ping does, and returns the first request as
// it left by the first host's uplink.
func (d *demo) ping(ctx context.Context, l *lab.Lab) (lab.Packet, error) {
	from, to := l.Hosts[0].Containers[0], l.Hosts[1].Containers[0]
	c, err := l.Hosts[0].NS.Capture(lab.Uplink)
	if err != nil {
		return lab.Packet{}, err
	}
	err = d.pingAloud(ctx, from, to)
	packets, stopErr := c.Stop()
	if err = errors.Join(err, stopErr); err != nil {
		return lab.Packet{}, err
	}
	i := slices.IndexFunc(packets, isRequest)
	if i < 0 {
		return lab.Packet{}, errors.New("no request was seen on the uplink of h1")
	}
	return packets[i], nil
}

func isRequest(p lab.Packet) bool {
	icmp := lab.Decode(p).ICMP
	return p.Outgoing && len(icmp) == 1 && icmp[0].TypeCode.Type() == layers.ICMPv4TypeEchoRequest
}

func (d *demo) pingAloud(ctx context.Context, from, to *lab.Container) error {
	d.printf("\n%s\n", d.paint.bold(fmt.Sprintf("h1/c1$ ping -c %d %s", demoPings, to.Addr)))
	p, err := from.NS.StartPing(ctx, to.Addr, lab.PingOptions{Count: demoPings, Interval: demoInterval, Timeout: demoPatience})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, demoPings*demoInterval+demoPatience)
	defer cancel()
	for i := range demoPings {
		answered := func() (bool, error) { return p.Snapshot().Received > i, nil }
		if lab.Until(wait, "ping is answered", answered) != nil {
			break // the account tells
		}
		r := p.Snapshot().Replies[i]
		d.printf("64 bytes from %s: icmp_seq=%d ttl=%d time=%.3f ms\n",
			to.Addr, r.Seq+1, r.TTL, float64(r.RTT.Microseconds())/1000)
	}
	r, err := p.Stop()
	if err == nil && r.Received < demoPings {
		err = fmt.Errorf("ping %s: %d of %d requests were not answered", to.Addr, demoPings-r.Received, demoPings)
	}
	return err
}

func countersOf(l *lab.Lab) ([]lab.Counters, error) {
	all := make([]lab.Counters, len(l.Hosts))
	for i, h := range l.Hosts {
		var err error
		if all[i], err = h.Counters(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
