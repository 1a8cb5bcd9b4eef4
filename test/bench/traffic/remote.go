// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
)

// Agent is an agent as who measures has it. Not for concurrent use.
type Agent struct {
	name string // in errors
	conn io.ReadWriteCloser
	in   *json.Decoder
	out  *json.Encoder
}

// Connect is an agent at the other end of a connection, which it closes. Errors call it by the name given.
func Connect(name string, conn io.ReadWriteCloser) *Agent {
	return &Agent{name: name, conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
}

// Start starts a process that is an agent on its standard input and output.
// run starts the command: in the namespace it is to be in.
func Start(cmd *exec.Cmd, run func() error) (*Agent, error) {
	cmd.Env = AgentEnv()
	p := &process{cmd: cmd}
	var err error
	if p.WriteCloser, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	if p.Reader, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := run(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	return Connect("agent", p), nil
}

// AgentEnv is the environment of an agent: it keeps the runtime from interrupting the flows' threads.
func AgentEnv() []string { return append(os.Environ(), "GODEBUG=asyncpreemptoff=1") }

// process is a command as a connection: closing it ends the command.
type process struct {
	io.Reader
	io.WriteCloser
	cmd    *exec.Cmd
	killed atomic.Bool // by us: that it was is no error
}

func (p *process) Close() error {
	err := p.WriteCloser.Close()
	if e := p.cmd.Wait(); e != nil && !p.killed.Load() {
		err = errors.Join(err, fmt.Errorf("end agent: %w", e))
	}
	return err
}

func (p *process) kill() {
	p.killed.Store(true)
	_ = p.cmd.Process.Kill() // it had ended: so much the better
}

// Close ends the agent. That it was given up before is no error.
func (a *Agent) Close() error {
	if err := a.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Hello sees to it that an agent is at the other end, and one of the same kind.
func (a *Agent) Hello(ctx context.Context) error {
	r, err := a.ask(ctx, request{Do: doHello})
	if err == nil && r.Protocol != protocol {
		err = fmt.Errorf("agent speaks protocol %d, this is %d: use one version of bpfnet on both hosts", r.Protocol, protocol)
	}
	return err
}

// Listen opens the listening half of a load at an address of the agent's host
// and returns its ports. core counts from 0, round and round the host's cores.
func (a *Agent) Listen(ctx context.Context, s Spec, core int, addr netip.Addr) ([]uint16, error) {
	r, err := a.ask(ctx, request{Do: doListen, Spec: s, Core: core, Addr: addr})
	return r.Ports, err
}

// Dial starts the dialling half of a load, to the ports of its listening half.
func (a *Agent) Dial(ctx context.Context, s Spec, core int, addr netip.Addr, ports []uint16) error {
	_, err := a.ask(ctx, request{Do: doDial, Spec: s, Core: core, Addr: addr, Ports: ports})
	return err
}

// Count reads what the agent's half has done so far.
func (a *Agent) Count(ctx context.Context) (Count, error) {
	r, err := a.ask(ctx, request{Do: doCount})
	return r.Count, err
}

// Stop ends the agent's half; that there is none is no error. It returns what
// had gone wrong in it.
func (a *Agent) Stop(ctx context.Context) error {
	_, err := a.ask(ctx, request{Do: doStop})
	return err
}

// ask sends a request and waits for its answer. Where ctx ends before, so does
// the agent.
func (a *Agent) ask(ctx context.Context, q request) (r reply, err error) {
	if err = ctx.Err(); err != nil {
		return r, err
	}
	stop := context.AfterFunc(ctx, func() { kill(a.conn) })
	err = a.out.Encode(q)
	if err == nil {
		err = a.in.Decode(&r)
	}
	switch {
	case !stop():
		return r, fmt.Errorf("wait for %s to %s: %w", a.name, q.Do, ctx.Err())
	case errors.Is(err, io.EOF):
		return r, fmt.Errorf("ask %s to %s: it has ended: %w", a.name, q.Do, err)
	case err != nil:
		return r, fmt.Errorf("ask %s to %s: %w", a.name, q.Do, err)
	case r.Error != "":
		return r, fmt.Errorf("%s: %s: %s", a.name, q.Do, r.Error)
	}
	return r, nil
}

// kill ends a connection under whoever waits on it.
func kill(conn io.Closer) {
	if p, ok := conn.(*process); ok {
		p.kill()
		return
	}
	_ = conn.Close() // whoever waits is told
}
