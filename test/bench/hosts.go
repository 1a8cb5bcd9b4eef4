// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

// Port is the TCP port that two hosts control a benchmark over.
const Port = 8286

// Target is an address of another host, as a mode of its own.
type Target struct {
	Name    string
	Addr    netip.Addr
	Control string // host and port of the other host's Serve
}

// Serve gives everybody who connects an agent that listens only, until ctx
// ends. The agents are processes of their own; what they complain of goes to
// stderr. It closes l.
func Serve(ctx context.Context, l net.Listener, binary string, stderr io.Writer) error {
	var agents sync.WaitGroup
	defer agents.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("wait for bench run: %w", err), l.Close())
		}
		agents.Go(func() {
			if err := serveAgent(ctx, conn, binary, stderr); err != nil && ctx.Err() == nil {
				fmt.Fprintf(stderr, "agent for %s: %v\n", conn.RemoteAddr(), err)
			}
		})
	}
}

// serveAgent runs an agent that has the connection for standard input and output.
func serveAgent(ctx context.Context, conn net.Conn, binary string, stderr io.Writer) error {
	defer conn.Close()                      //nolint:errcheck // the agent has its own
	file, err := conn.(*net.TCPConn).File() //nolint:errcheck // what a TCP listener gives
	if err != nil {
		return fmt.Errorf("hand connection over: %w", err)
	}
	defer file.Close() //nolint:errcheck // likewise
	cmd := exec.CommandContext(ctx, binary, "bench", "agent", "--listen-only")
	cmd.Env = traffic.AgentEnv()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, stderr
	return cmd.Run()
}

// RunTo measures the ways to addresses of another host, where Serve runs.
func RunTo(ctx context.Context, o Options, targets []Target) (r *Report, err error) {
	if err = o.Validate(); err != nil {
		return nil, err
	}
	began := time.Now()
	r = &Report{Absent: []Absent{}}
	if r.Machine, err = DescribeMachine(ctx); err != nil {
		return nil, err
	}
	uplink, err := towards(targets[0].Addr)
	if err == nil {
		r.Machine.Offloads, err = uplink.features(slices.Values(reported))
	}
	if err != nil {
		return nil, err
	}
	o.Loads, r.Absent = withoutUplink(o.Loads)
	if len(o.Loads) == 0 {
		return nil, fmt.Errorf("nothing to measure: %s", r.Absent[0].Reason)
	}
	cmd := exec.Command(o.Binary, "bench", "agent")
	client, err := traffic.Start(cmd, cmd.Start)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	servers := map[string]*traffic.Agent{}
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.Close())
		}
	}()
	var ways []way
	for _, t := range targets {
		if servers[t.Control] == nil {
			if servers[t.Control], err = dialAgent(ctx, t.Control); err != nil {
				delete(servers, t.Control)
				return nil, err
			}
			r.Machine.Peer = strings.TrimPrefix(r.Machine.Peer+", "+t.Control, ", ")
		}
		ways = append(ways, way{t.Name, client, servers[t.Control], t.Addr})
	}
	p := &plan{Options: o, began: began, ways: ways, prepare: func(int, Load) (func() error, error) { return nothing, nil }}
	return r, p.run(ctx, r)
}

func dialAgent(ctx context.Context, address string) (*traffic.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("reach bench serve (does it run there?): %w", err)
	}
	agent := traffic.Connect("bench serve at "+address, conn)
	if err := agent.Hello(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("talk to bench serve (is it that, of this version?): %w", err), agent.Close())
	}
	return agent, nil
}

// withoutUplink leaves the loads out that change settings of the uplink: what
// is not ours is not changed.
func withoutUplink(loads []Load) (possible []Load, absent []Absent) {
	absent = []Absent{}
	for _, l := range loads {
		if l.Uplink != nil {
			absent = append(absent, Absent{Load: l.Name, Reason: "between given hosts no offload of theirs is changed"})
			continue
		}
		possible = append(possible, l)
	}
	return possible, absent
}
