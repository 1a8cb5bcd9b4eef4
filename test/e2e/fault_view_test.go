// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	kernel "github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
	"github.com/bpfnet/bpfnet/test/lab"
)

// view is what a host's kernel and maps hold of the overlay, in words.
type view struct {
	// The kernel's, of ours alone.
	Routes     map[string]string // subnet -> gateway and device
	Neighbours map[string]string // VTEP address -> MAC, permanent on bpfnet0
	FDB        map[string]string // MAC -> node, permanent on bpfnet0
	// The maps'.
	MapRoutes map[string]string // subnet -> node, and the header's length and inner destination MAC
	MapNodes  map[string]string // node -> node
	MapNeigh  map[string]string // VTEP address -> MAC
	MapFDB    map[string]string // MAC -> node
	Hosts     int               // entries of hosts
}

func newView() view {
	return view{
		Routes: map[string]string{}, Neighbours: map[string]string{}, FDB: map[string]string{},
		MapRoutes: map[string]string{}, MapNodes: map[string]string{}, MapNeigh: map[string]string{}, MapFDB: map[string]string{},
	}
}

// viewOf reads a host's view. It fails where the tables change meanwhile.
func viewOf(h *lab.Host) (view, error) {
	v := newView()
	err := h.NS.Do(v.readKernel)
	set, e := h.Maps()
	if errors.Is(e, maps.ErrNoDatapath) { // nor has a view with maps been asked for, or it differs
		return v, err
	}
	if err = errors.Join(err, e); err != nil {
		return v, err
	}
	return v, errors.Join(v.readMaps(set), set.Close())
}

func (v *view) readKernel() error {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: kernel.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		link, linkErr := netlink.LinkByIndex(r.LinkIndex)
		if linkErr != nil {
			return fmt.Errorf("get link %d: %w", r.LinkIndex, linkErr)
		}
		v.Routes[r.Dst.String()] = fmt.Sprintf("via %s dev %s", r.Gw, link.Attrs().Name)
	}
	overlay, err := netlink.LinkByName(kernel.OverlayName)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s: %w", kernel.OverlayName, err)
	}
	neighbours, err := netlink.NeighList(overlay.Attrs().Index, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	fdb, err := netlink.NeighList(overlay.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list FDB: %w", err)
	}
	for _, n := range neighbours {
		if n.State == unix.NUD_PERMANENT {
			v.Neighbours[n.IP.String()] = n.HardwareAddr.String()
		}
	}
	for _, e := range fdb {
		if e.State == unix.NUD_PERMANENT && e.IP != nil {
			v.FDB[e.HardwareAddr.String()] = e.IP.String()
		}
	}
	return nil
}

func (v *view) readMaps(set *maps.Set) error {
	hosts, err := set.Hosts.All()
	routes, e1 := set.Routes.All()
	nodes, e2 := set.Nodes.All()
	neigh, e3 := set.Neigh.All()
	fdb, e4 := set.FDB.All()
	for _, r := range routes {
		h := hosts[r.Host]
		v.MapRoutes[r.Prefix.String()] = hostWords(h)
		if r.Host == uint32(bpf.DatapathHostIndexHOST_SELF) {
			v.MapRoutes[r.Prefix.String()] = "self"
		}
	}
	for a, host := range nodes {
		v.MapNodes[a.String()] = hosts[host].Node.String()
	}
	for k, mac := range neigh {
		v.MapNeigh[k.Addr.String()] = topology.MAC(mac).String()
	}
	for k, host := range fdb {
		v.MapFDB[topology.MAC(k.MAC).String()] = hosts[host].Node.String()
	}
	v.Hosts = len(hosts)
	return errors.Join(err, e1, e2, e3, e4)
}

func hostWords(h maps.Host) string {
	words := h.Node.String() + " " + strconv.Itoa(int(h.HeaderLen))
	if h.Encap == bpf.DatapathEncapENCAP_VXLAN {
		words += " " + net.HardwareAddr(h.Header[36:42]).String()
	}
	return words
}

// wantView is the view of a host whose peers hold these leases. Of two with one
// VTEP MAC, the second keeps it.
func wantView(l *lab.Lab, h *lab.Host, leases ...store.Lease) view {
	v := newView()
	v.MapRoutes[h.Subnet.String()] = "self"
	v.Hosts = 1
	var own topology.MAC
	for _, lease := range leases {
		if lease.PublicIP == h.Addr {
			own = lease.MAC
			continue
		}
		v.Hosts++
		subnet, first, at := lease.Subnet.String(), lease.Subnet.Addr().String(), lease.PublicIP.String()
		v.MapNodes[at] = at
		switch lease.Backend {
		case topology.EncapVXLAN:
			mac := lease.MAC.String()
			v.Routes[subnet] = fmt.Sprintf("via %s dev %s", first, kernel.OverlayName)
			v.Neighbours[first], v.FDB[mac] = mac, at
			v.MapRoutes[subnet] = at + " 50 " + mac
			v.MapNeigh[first], v.MapFDB[mac] = mac, at
			defer func() { delete(v.FDB, own.String()) }() // the device's own has none
		case topology.EncapNone:
			v.Routes[subnet] = fmt.Sprintf("via %s dev %s", at, lab.Uplink)
			v.MapRoutes[subnet] = at + " 0"
		default:
			v.Routes[subnet] = fmt.Sprintf("via %s dev %s", at, mode{l.Options.Dataplane, lease.Backend}.device())
			v.MapRoutes[subnet] = at + " " + strconv.Itoa(map[topology.Encap]int{topology.EncapIPIP: 20, topology.EncapUDP: 28}[lease.Backend])
		}
	}
	if l.Options.Dataplane == node.Netlink {
		v.forgetMaps()
	}
	return v
}

// forgetMaps leaves the kernel's tables alone, as where no datapath is.
func (v *view) forgetMaps() {
	for _, m := range []map[string]string{v.MapRoutes, v.MapNodes, v.MapNeigh, v.MapFDB} {
		clear(m)
	}
	v.Hosts = 0
}

// waitView waits until a host's view is the wanted one, and returns how long after since that was.
func waitView(t *testing.T, h *lab.Host, want view, since time.Time) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var d string
	err := lab.Until(ctx, "", func() (bool, error) {
		got, err := viewOf(h)
		if d = cmp.Diff(want, got); err != nil {
			d = err.Error()
		}
		return d == "", nil
	})
	if err != nil {
		t.Fatalf("%s holds (-want +got):\n%s", h.Name, d)
	}
	return time.Since(since)
}

// leases are the leases in etcd that are ones.
func leases(t *testing.T, c *clientv3.Client) (all []store.Lease) {
	t.Helper()
	prefix := store.DefaultPrefix + "/subnets/"
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	resp, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	noError(t, err)
	for _, kv := range resp.Kvs {
		if l, err := store.ParseLease(string(kv.Key[len(prefix):]), kv.Value); err == nil {
			all = append(all, l)
		}
	}
	return all
}

// leaseOf is the lease that a host holds.
func leaseOf(t *testing.T, c *clientv3.Client, h *lab.Host) store.Lease {
	t.Helper()
	l, err := store.ParseLease(strings.TrimPrefix(leaseKey(h), "subnets/"), []byte(get(t, c, leaseKey(h))))
	noError(t, err)
	return l
}

// madeUp is the lease of a node that does not exist.
func madeUp(subnet string, number byte) store.Lease {
	return store.Lease{
		Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.AddrFrom4([4]byte{192, 168, 32, number}),
		Backend: topology.EncapVXLAN, VNI: 1, MAC: topology.MAC{2, 0, 0, 0, 0, number},
	}
}

// leaseKeyOf is a lease's key.
func leaseKeyOf(l store.Lease) string {
	return fmt.Sprintf("subnets/%s-%d", l.Subnet.Addr(), l.Subnet.Bits())
}

// putLeases writes leases to etcd, all at once.
func putLeases(t *testing.T, c *clientv3.Client, all ...store.Lease) {
	t.Helper()
	var puts []clientv3.Op
	for _, l := range all {
		value, err := l.Value()
		noError(t, err)
		puts = append(puts, clientv3.OpPut(store.DefaultPrefix+"/"+leaseKeyOf(l), string(value)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := c.Txn(ctx).Then(puts...).Commit()
	noError(t, err)
}

// subnetEnv is what a host's subnet.env says; the zero one where there is none.
func subnetEnv(t *testing.T, h *lab.Host) store.SubnetEnv {
	t.Helper()
	env, err := store.ReadSubnetEnv(h.SubnetFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return env
}
