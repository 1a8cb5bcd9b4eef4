// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

// etcdPort is etcd's client port, as registered with IANA.
const etcdPort = 2379

// embeddedEtcd is the etcd server this daemon runs, from its first session to its end.
type embeddedEtcd struct {
	server *embedded.Server
}

func (e *embeddedEtcd) endpoints() []string { return e.server.Endpoints() }

func (n *node) startEtcd(ctx context.Context, node netip.Addr) error {
	if n.etcd != nil {
		return nil
	}
	listen := n.Embedded.Listen
	if len(listen) == 0 {
		for _, host := range []netip.Addr{node, netip.AddrFrom4([4]byte{127, 0, 0, 1})} {
			listen = append(listen, "http://"+netip.AddrPortFrom(host, etcdPort).String())
		}
	}
	server, err := embedded.Start(ctx, embedded.Options{Dir: n.Embedded.Dir, ClientURLs: listen, Logger: n.log})
	if err != nil {
		return err
	}
	n.etcd = &embeddedEtcd{server}
	n.log.Info("serving etcd", "endpoints", listen)
	return nil
}

func (n *node) stopEtcd() error {
	if n.etcd == nil {
		return nil
	}
	return n.etcd.server.Close()
}
