// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/underlay"
)

// watchPathMTU follows what routers say of the programs' tunnel packets from
// one of this node's addresses, as far as listenTunnel does not. That
// it cannot keeps nothing else from being served.
func (l *loop) watchPathMTU(ctx context.Context, from netip.Addr) {
	source := "path MTU of " + from.String()
	defer l.reporter.report(source, nil)
	for {
		err := underlay.WatchPathMTU(ctx, l.encap(), netip.AddrPortFrom(from, l.first().self.Port), func() {
			l.reporter.report(source, nil)
			l.underlayChanged()
		})
		if ctx.Err() != nil {
			return
		}
		l.reporter.report(source, err)
		if !sleep(ctx, retryEvery) {
			return
		}
	}
}
