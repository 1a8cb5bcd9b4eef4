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

// listenTunnel follows what comes for the programs' tunnel and is not theirs to
// take: what routers say of its packets, and packets in fragments. That it
// cannot keeps nothing else from being served.
func (l *loop) listenTunnel(ctx context.Context) {
	if l.kind != EBPF || !l.uplink.Addr.IsValid() {
		return // the kernel's devices do it themselves; nothing comes over IPv4
	}
	for {
		err := l.listenTunnelOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		l.reporter.report("tunnel socket", err)
		if !sleep(ctx, retryEvery) {
			return
		}
	}
}

func (l *loop) listenTunnelOnce(ctx context.Context) (err error) {
	on := underlay.TunnelEvents{PathMTU: func() {
		l.reporter.report("tunnel socket", nil)
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
				l.reporter.report("reassembled packets", in.Inject(inner))
			}
		}
	}
	at := netip.AddrPortFrom(l.uplink.Addr, l.first().self.Port)
	return underlay.ListenTunnel(ctx, l.encap(), at, maps.MarkChecked, on)
}
