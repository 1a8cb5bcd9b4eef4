// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"sync"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// tunnel is the userspace copy of a udp network in the netlink dataplane. It
// outlives sessions, for packets go by it until the next one has others ways.
type tunnel struct {
	*udptun.Tunnel
	options udptun.Options
	ctx     context.Context // of the copying
	stop    func()
	begun   sync.Once
	done    chan struct{}
	err     error // of its end; to be read when done is closed
}

// usesTunnel reports whether this session's packets are copied by us.
func (s *session) usesTunnel() bool {
	return s.kind == Netlink && s.encap() == topology.EncapUDP
}

// startTunnel opens the tunnel of this session; one that fits is kept.
func (s *session) startTunnel(ctx context.Context) error {
	self := s.first().self
	o := udptun.Options{Subnet: self.Subnet, Node: self.Node, Port: self.Port, MTU: self.MTU, Logger: s.log}
	if s.tunnel != nil && s.tunnel.options == o && !s.tunnel.ended() {
		return nil
	}
	s.endTunnel()
	t, err := udptun.Open(o)
	if err != nil {
		return err
	}
	run := &tunnel{Tunnel: t, options: o, done: make(chan struct{})}
	run.ctx, run.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.tunnel = run
	s.status.setTunnel(t)
	return nil
}

// endTunnel ends the copying. Its device stays, so that no packet of the
// overlay leaves by another.
func (n *node) endTunnel() {
	if n.tunnel == nil {
		return
	}
	failed := n.tunnel.ended() // of which watchTunnel tells
	n.status.setTunnel(nil)
	n.tunnel.stop()
	n.tunnel.begun.Do(n.tunnel.run) // which only closes it
	<-n.tunnel.done
	if !failed && n.tunnel.err != nil {
		n.log.Warn("ending the udp tunnel", "error", n.tunnel.err)
	}
	n.tunnel = nil
}

// watchTunnel ends the session where the tunnel fails, so that the next one
// starts it anew.
func (s *session) watchTunnel(ctx context.Context) error {
	if !s.usesTunnel() {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.tunnel.done:
		return s.tunnel.err
	}
}

// run copies until stop is called.
func (t *tunnel) run() {
	defer close(t.done)
	t.err = errors.Join(t.Run(t.ctx), t.Close())
}

func (t *tunnel) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// setPeers begins the copying with the first peers: before, packets wait in the
// device's queue and in the socket.
func (t *tunnel) setPeers(s topology.State) {
	peers := make([]udptun.Peer, 0, len(s.Peers))
	for _, p := range s.Peers {
		peers = append(peers, udptun.Peer{Subnet: p.Subnet, Node: p.Node})
	}
	t.SetPeers(peers)
	t.begun.Do(func() { go t.run() })
}
