// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/store/embedded"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// etcdURL is the underlay's router, where the tests' etcd listens: no node's
// end is etcd's.
const etcdURL = "http://192.168.32.1:2379"

// mode is a backend as the network's config names it.
type mode struct {
	name     string
	backend  topology.Encap
	options  string         // more of Backend's JSON, with its comma
	onWire   topology.Encap // between the lab's hosts; the backend's own where it is ""
	underlay lab.Underlay   // flat where it is ""
	inner    lab.Families   // of the containers, and of the hosts; IPv4 where it is ""
}

func (m mode) wire() topology.Encap { return cmp.Or(m.onWire, m.backend) }

// modes are those that flanneld can serve on this kernel. flanneld's ipip needs
// the kernel's; where that is missing, TestIPIPNeedsTheKernel says so.
func modes() []mode {
	all := []mode{
		{name: "vxlan", backend: topology.EncapVXLAN},
		{name: "host-gw", backend: topology.EncapNone},
		{name: "udp", backend: topology.EncapUDP},
	}
	if kernelHasIPIP() {
		all = append(all, ipip)
	}
	return all
}

var (
	ipip = mode{name: "ipip", backend: topology.EncapIPIP}
	// flanneld's udp and ipip carry IPv4 alone.
	dualStack = []mode{
		{name: "vxlan, dual stack", backend: topology.EncapVXLAN, inner: lab.Dual},
		{name: "host-gw, dual stack", backend: topology.EncapNone, inner: lab.Dual},
	}
	direct = mode{
		name: "vxlan with DirectRouting", backend: topology.EncapVXLAN, options: `,"DirectRouting":true`, onWire: topology.EncapNone}
	acrossRouter = mode{
		name: "vxlan with DirectRouting across a router", backend: topology.EncapVXLAN, options: `,"DirectRouting":true`, underlay: lab.Routed}
)

// agent is what runs on a node: bpfnet's daemon or flanneld.
type agent interface {
	start(t *testing.T, args ...string) // and waits until it serves
	stop(t *testing.T)                  // by SIGTERM; that it does not run is no error
	kill(t *testing.T)                  // by SIGKILL
}

// bpfnet is our daemon on a host.
type bpfnet struct {
	host *lab.Host
	args []string
}

func (b *bpfnet) start(t *testing.T, args ...string) {
	t.Helper()
	noError(t, b.host.StartDaemon(t.Context(), append(b.args, args...)...))
}

func (b *bpfnet) stop(t *testing.T) {
	t.Helper()
	noError(t, b.host.StopDaemon(context.WithoutCancel(t.Context())))
}

func (b *bpfnet) kill(t *testing.T) {
	t.Helper()
	noError(t, b.host.KillDaemon())
}

// node is a host that both agents can run on, one at a time.
type node struct {
	*lab.Host
	bpfnet   *bpfnet
	flanneld *flanneld
}

// cluster is a lab with an etcd of its own, the network's config in it, and
// nothing running on its nodes.
//
//	h1/c1 172.245.0.2      h2/c1 172.246.0.2      h3/c1 172.247.0.2
//	   h1 .245                h2 .246                h3 .247
//	     └──────── 192.168.32.0/24 ──┴──────────────────┘
//	                  .1 etcd
type cluster struct {
	*lab.Lab
	etcd  *clientv3.Client
	nodes []*node
}

// up brings a cluster up for the test alone, beside those of other tests: most
// wait most of the time.
func up(t *testing.T, m mode, dp dataplane, hosts int) *cluster {
	t.Helper()
	t.Parallel()
	o := lab.Defaults()
	tree, err := os.Getwd() // two checkouts may be tested at once
	noError(t, err)
	h := fnv.New64a()
	fmt.Fprint(h, tree, t.Name())
	o.Name = fmt.Sprintf("interop%x", h.Sum64())
	o.Hosts, o.Containers, o.Backend, o.Binary, o.Etcd = hosts, 1, m.backend, bpfnetBinary, etcdURL
	o.Underlay = cmp.Or(m.underlay, lab.Flat)
	o.Inner = cmp.Or(m.inner, lab.V4)
	o.Outer = o.Inner
	l, err := lab.Up(t.Context(), o)
	noError(t, err)
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{Lab: l, etcd: startEtcd(t, l)}
	six := ""
	if o.Inner == lab.Dual {
		six = fmt.Sprintf(`"EnableIPv6":true,"IPv6Network":%q,"IPv6SubnetLen":%d,`, lab.Network6, lab.SubnetLen6)
	}
	c.put(t, "config", fmt.Sprintf(`{"Network":%q,"SubnetLen":%d,%s"Backend":{"Type":%q%s}}`,
		lab.Network, lab.SubnetLen, six, m.backend, m.options))
	for _, h := range l.Hosts {
		n := &node{h, &bpfnet{h, dp.args}, &flanneld{host: h, etcd: etcdURL}}
		c.nodes = append(c.nodes, n)
		t.Cleanup(func() { n.end(t) })
	}
	return c
}

// end ends what runs on a node, and shows its logs if the test has failed.
func (n *node) end(t *testing.T) {
	for _, a := range []agent{n.flanneld, n.bpfnet} {
		a.stop(t)
	}
	if !t.Failed() {
		return
	}
	if log, err := os.ReadFile(n.LogFile()); err == nil {
		t.Logf("bpfnet on %s:\n%s", n.Name, log)
	}
	if _, err := os.Stat(n.flanneld.logFile()); err == nil {
		t.Logf("flanneld on %s, the end:\n%s", n.Name, n.flanneld.lastLog(t))
	}
}

// container is the node's only one.
func (n *node) container() *lab.Container { return n.Containers[0] }

// key is that of the node's lease.
func (n *node) key() string {
	key := fmt.Sprintf("subnets/%s-%d", n.Subnet.Addr(), n.Subnet.Bits())
	if n.Subnet6.IsValid() {
		key += fmt.Sprintf("&%s-%d", n.Subnet6.Addr(), n.Subnet6.Bits())
	}
	return key
}

func startEtcd(t *testing.T, l *lab.Lab) *clientv3.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var server *embedded.Server
	noError(t, l.Wire().Do(func() (err error) {
		server, err = embedded.Start(ctx, embedded.Options{Dir: t.TempDir(), ClientURLs: []string{etcdURL}, NoSync: true})
		return err
	}))
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{etcdURL},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return l.Wire().Dial(ctx, "tcp", address)
		})},
	})
	noError(t, err)
	t.Cleanup(func() {
		for _, err := range []error{client.Close(), server.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return client
}

func (c *cluster) put(t *testing.T, key, value string, o ...clientv3.OpOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := c.etcd.Put(ctx, store.DefaultPrefix+"/"+key, value, o...)
	noError(t, err)
}

// record is a key of the network in etcd.
type record struct {
	Key, Value string
	TTL        int64 // of the etcd lease it was put with, as granted, seconds; 0: none
}

// records are all of the network.
func (c *cluster) records(t *testing.T) (all []record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	got, err := c.etcd.Get(ctx, store.DefaultPrefix+"/", clientv3.WithPrefix())
	noError(t, err)
	for _, kv := range got.Kvs {
		r := record{Key: string(kv.Key), Value: string(kv.Value)}
		if kv.Lease != 0 {
			ttl, err := c.etcd.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
			noError(t, err)
			r.TTL = ttl.GrantedTTL
		}
		all = append(all, r)
	}
	return all
}

// lease is a node's record.
func (c *cluster) lease(t *testing.T, n *node) record {
	t.Helper()
	for _, r := range c.records(t) {
		if r.Key == store.DefaultPrefix+"/"+n.key() {
			return r
		}
	}
	t.Fatalf("%s has no lease", n.Name)
	return record{}
}

func (c *cluster) remove(t *testing.T, n *node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	_, err := c.etcd.Delete(ctx, store.DefaultPrefix+"/"+n.key())
	noError(t, err)
}

// meet waits until a container reaches an address.
func meet(t *testing.T, from lab.Namespace, to netip.Addr) {
	t.Helper()
	until(t, fmt.Sprintf("%s reaches %s", from, to), func() (bool, error) {
		r, err := from.Ping(t.Context(), to, lab.PingOptions{Count: 1, Timeout: 20 * time.Millisecond})
		return r.Received == 1, err
	})
}
