// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime/debug"
)

// request is one line to an agent, reply one line from it.
type request struct {
	Do    verb
	Spec  Spec
	Core  int // which of Cores to run on, round and round
	Addr  netip.Addr
	Ports []uint16
}

type verb string

// protocol is raised with each change after which two versions would misunderstand
// one another, or measure something else by the same name.
const protocol = 1

const (
	doHello  verb = "hello"
	doListen verb = "listen"
	doDial   verb = "dial"
	doCount  verb = "count"
	doStop   verb = "stop"
)

type reply struct {
	Error    string
	Protocol int // said to hello
	Ports    []uint16
	Count    Count
}

// agent does what it is told, one half at a time.
type agent struct {
	cores      []int
	listenOnly bool
	half       *half
}

// Serve is an agent: it does what r asks, answers on w, and returns when r
// ends. It is to have a process of its own. One that strangers may reach
// should listen only, so that it cannot be told to flood others.
func Serve(r io.Reader, w io.Writer, listenOnly bool) (err error) {
	debug.SetGCPercent(-1) // see the package's comment
	cores, err := Cores()
	if err != nil {
		return err
	}
	a := &agent{cores: cores, listenOnly: listenOnly}
	defer func() { err = errors.Join(err, a.stop()) }()
	in, out := json.NewDecoder(bufio.NewReader(r)), json.NewEncoder(w)
	for {
		var q request
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		answer, err := a.do(q)
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return fmt.Errorf("answer request: %w", err)
		}
	}
}

func (a *agent) do(q request) (reply, error) {
	switch q.Do {
	case doHello:
		return reply{Protocol: protocol}, nil
	case doListen:
		return a.listen(q)
	case doDial:
		return reply{}, a.dial(q)
	case doCount:
		return a.count()
	case doStop:
		return reply{}, a.stop()
	}
	return reply{}, fmt.Errorf("unknown request %q", q.Do)
}

func (a *agent) listen(q request) (r reply, err error) {
	if err = a.ready(q); err != nil {
		return r, err
	}
	a.half, r.Ports, err = startListener(q.Spec, q.Addr, a.cpu(q))
	return r, err
}

func (a *agent) dial(q request) error {
	if a.listenOnly {
		return errors.New("this agent listens only: run the other end of the load here")
	}
	err := a.ready(q)
	if err != nil {
		return err
	}
	a.half, err = startDialler(q.Spec, q.Addr, q.Ports, a.cpu(q))
	return err
}

func (a *agent) ready(q request) error {
	if a.half != nil {
		return errors.New("a load is running: stop it first")
	}
	if !q.Addr.IsValid() || q.Core < 0 {
		return errors.New("request without an address or a core")
	}
	return q.Spec.validate()
}

func (a *agent) cpu(q request) int { return a.cores[q.Core%len(a.cores)] }

func (a *agent) count() (r reply, err error) {
	if a.half == nil {
		r.Count, err = ReadMachine()
		return r, err
	}
	r.Count, err = a.half.count()
	return r, err
}

func (a *agent) stop() error {
	if a.half == nil {
		return nil
	}
	h := a.half
	a.half = nil
	return h.stop()
}
