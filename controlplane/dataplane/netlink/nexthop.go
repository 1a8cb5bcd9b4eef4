// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// A route of IPv4 that names its gateway and device has a struct fib_info, which
// the kernel shares among routes that are alike. It looks for one that is in a
// hash that knows the device, but not the gateway (fib_find_info of
// net/ipv4/fib_semantics.c, to 6.18): those of all our peers lie in one chain, and
// 100,000 take it minutes, with the lock held that all of the network's configuration
// needs. A nexthop object (kernel 5.3) is found by its id. So in larger clusters a
// route names one; `ip route` shows the same gateway and device, and the id.
// flanneld, which does not know them, cannot remove such a route, hence not in all.

// plainRoutes is how many routes of ours are not by a nexthop object: so many
// take some milliseconds.
const plainRoutes = 1000

// hop is what a nexthop object stands for.
type hop struct {
	gateway netip.Addr
	ifindex int
}

func (r route) hop() hop { return hop{r.gateway, r.ifindex} }

type nexthop struct {
	id     uint32
	routes int // by it
}

// Ids are the network namespace's. Ours are from here on: what others choose is
// small, or a small number behind that of a routing protocol.
const firstNexthop = RouteProtocol << 24

// nexthopFor is the id that a new route is to name; 0 for none, as for the few that
// are of IPv4 and lead into a tunnel over IPv6.
func (w *writer) nexthopFor(r route, a attrs) (uint32, error) {
	if w.have.nexthops == nil || r.protocol != RouteProtocol || a.ends.valid() {
		return 0, nil
	}
	h := r.hop()
	n, there := w.have.nexthops[h]
	if there || len(w.have.routes) < plainRoutes {
		return n.id, nil
	}
	for id := max(w.have.lastNexthop+1, firstNexthop); ; id++ {
		err := w.addNexthop(id, h)
		if errors.Is(err, unix.EEXIST) {
			continue // somebody else's
		}
		if err == nil {
			w.have.nexthops[h], w.have.lastNexthop = nexthop{id: id}, id
		}
		return id, err
	}
}

// count notes that there are more or fewer routes by a nexthop.
func (t *tables) count(h hop, by int) nexthop {
	n := t.nexthops[h]
	n.routes += by
	t.nexthops[h] = n
	return n
}

// release removes a route's nexthop with the last route by it. That of a nexthop
// with routes would have the kernel walk all of its tables (fib_flush).
func (w *writer) release(r route, a attrs) error {
	if a.nexthop == 0 || w.have.count(r.hop(), -1).routes > 0 {
		return nil
	}
	return w.removeNexthop(r.hop())
}

func (w *writer) removeNexthop(h hop) error {
	err := removal("nexthop via", h.gateway, w.delNexthop(w.have.nexthops[h].id))
	if err == nil {
		delete(w.have.nexthops, h)
	}
	return err
}

// removeUnused removes the nexthops that no route is by: a daemon was killed
// between two writes.
func (w *writer) removeUnused() error {
	var errs []error
	for h, n := range w.have.nexthops {
		if n.routes == 0 {
			errs = append(errs, w.removeNexthop(h))
		}
	}
	return errors.Join(errs...)
}

// removeNexthops removes all of ours, once no route is by them.
func (k kernel) removeNexthops(t *tables) error {
	var errs []error
	for h, n := range t.nexthops {
		errs = append(errs, removal("nexthop via", h.gateway, k.delNexthop(n.id)))
	}
	return errors.Join(errs...)
}

// nhmsg is struct nhmsg of include/uapi/linux/nexthop.h.
func nhmsg(flags uint32) []byte {
	return native.AppendUint32([]byte{unix.AF_INET, 0, RouteProtocol, 0}, flags)
}

func (k kernel) addNexthop(id uint32, h hop) error {
	return k.conn.Request(unix.RTM_NEWNEXTHOP, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nhmsg(unix.RTNH_F_ONLINK)...).
		Uint32(unix.NHA_ID, id).Uint32(unix.NHA_OIF, uint32(h.ifindex)).Attr(unix.NHA_GATEWAY, h.gateway.AsSlice()...).Do()
}

func (k kernel) delNexthop(id uint32) error {
	return k.conn.Request(unix.RTM_DELNEXTHOP, 0, make([]byte, unix.SizeofNhmsg)...).Uint32(unix.NHA_ID, id).Do()
}

// listNexthops lists ours into t and returns them by id.
func (k kernel) listNexthops(f family, t *tables) (map[uint32]hop, error) {
	if !f.nexthops {
		return nil, nil
	}
	type entry struct {
		hop
		id uint32
	}
	all, err := rtnl.List("nexthops", func() (found []entry, err error) {
		header := make([]byte, unix.SizeofNhmsg)
		header[0] = byte(f.number)
		err = k.conn.Request(unix.RTM_GETNEXTHOP, 0, header...).Dump(func(msg []byte) {
			if len(msg) < unix.SizeofNhmsg || msg[2] != RouteProtocol {
				return
			}
			var e entry
			rtnl.Attributes(msg, unix.SizeofNhmsg, func(kind uint16, data []byte) {
				switch {
				case kind == unix.NHA_GATEWAY:
					e.gateway = rtnl.Addr(data)
				case len(data) != 4:
				case kind == unix.NHA_ID:
					e.id = native.Uint32(data)
				case kind == unix.NHA_OIF:
					e.ifindex = int(native.Uint32(data))
				}
			})
			found = append(found, e)
		})
		return found, err
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel before 5.3
	}
	t.nexthops = make(map[hop]nexthop, len(all))
	byID := make(map[uint32]hop, len(all))
	for _, e := range all {
		t.nexthops[e.hop], byID[e.id] = nexthop{id: e.id}, e.hop
		t.lastNexthop = max(t.lastNexthop, e.id)
	}
	return byID, err
}
