// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
)

// etcdPort is etcd's client port, as registered with IANA.
const etcdPort = 2379

// embeddedEtcd is the etcd server this daemon runs, through all sessions for as
// long as it is well.
type embeddedEtcd struct {
	server *embedded.Server
	listen []string
}

func (e *embeddedEtcd) endpoints() []string { return e.server.Endpoints() }

// startEtcd has etcd served at this node's address.
func (n *node) startEtcd(ctx context.Context, node netip.Addr) error {
	listen := n.Embedded.Listen
	if len(listen) == 0 {
		for _, host := range []netip.Addr{node, netip.AddrFrom4([4]byte{127, 0, 0, 1})} {
			listen = append(listen, "http://"+netip.AddrPortFrom(host, etcdPort).String())
		}
	}
	if n.etcd != nil && slices.Equal(n.etcd.listen, listen) {
		return nil
	}
	if err := n.stopEtcd(); err != nil {
		return err
	}
	server, err := embedded.Start(ctx, embedded.Options{Dir: n.Embedded.Dir, ClientURLs: listen, Logger: n.log})
	if err != nil {
		return err
	}
	n.etcd = &embeddedEtcd{server, listen}
	n.log.Info("serving etcd", "endpoints", listen)
	return nil
}

// watchEtcd ends the session where the etcd served here fails, so that the next
// one starts it anew.
func (n *node) watchEtcd(ctx context.Context) error {
	if n.etcd == nil {
		return nil
	}
	err := n.etcd.server.Wait(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, n.stopEtcd())
}

func (n *node) stopEtcd() error {
	if n.etcd == nil {
		return nil
	}
	server := n.etcd.server
	n.etcd = nil
	return server.Close()
}
