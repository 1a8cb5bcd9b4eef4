// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
	"github.com/bpfnet/bpfnet/maps"
)

// listenTunnel follows what comes for the programs' tunnel to one of this node's
// addresses and is not theirs to take: what routers say of its packets, and packets
// in fragments. That it cannot keeps nothing else from being served.
func (l *loop) listenTunnel(ctx context.Context, at netip.Addr) {
	source, injecting := "tunnel socket at "+at.String(), "reassembled packets to "+at.String()
	defer func() {
		l.reporter.report(source, nil)
		l.reporter.report(injecting, nil)
	}()
	for {
		err := l.listenTunnelOnce(ctx, at, source, injecting)
		if ctx.Err() != nil {
			return
		}
		l.reporter.report(source, err)
		if !sleep(ctx, retryEvery) {
			return
		}
	}
}

func (l *loop) listenTunnelOnce(ctx context.Context, at netip.Addr, source, injecting string) (err error) {
	on := underlay.TunnelEvents{PathMTU: func() {
		l.reporter.report(source, nil)
		l.underlayChanged()
	}}
	if overlay := l.first().overlay; overlay.PeerIfindex != 0 { // no kernel device unpacks what the kernel has put together
		in, err := ebpf.OpenInjector(overlay.PeerIfindex, overlay.MAC)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, in.Close()) }()
		on.Whole = func(inner []byte, tos byte) {
			if udptun.MergeECN(inner, tos) {
				l.reporter.report(injecting, in.Inject(inner))
			}
		}
	}
	return underlay.ListenTunnel(ctx, l.encap(), netip.AddrPortFrom(at, l.first().self.Port), maps.MarkChecked, on)
}
