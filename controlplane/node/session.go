// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/netlink"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay"
)

// session is one stay of the node in one network: set up by open, run until
// something it stands on changes.
type session struct {
	*node
	store     *store.Store
	config    store.Config
	uplink    underlay.Uplink
	held      *store.Held
	families  []*family // that the network has, IPv4 first
	retired   bool      // retireFamily is done
	kind      Dataplane
	dataplane dataplane
	resync    time.Duration // how often everything is compared again
	unwritten int           // peers that the kernel's tables do not serve yet; of loop.run alone
}

func (n *node) session(ctx context.Context) (err error) {
	s := &session{node: n, kind: n.choice.get(), resync: resyncEvery}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	n.reporter.report("session", nil)
	return s.run(ctx)
}

// open does everything up to the dataplane, by which no packet goes yet.
func (s *session) open(ctx context.Context) error {
	err := checkRivals()
	if err != nil && s.had == (store.Lease{}) {
		return err
	}
	s.reporter.report("rival", err)                            // who came later does not end what is served
	if s.uplink, err = underlay.Find(s.Underlay); err != nil { // by any address, for etcd is to be found by it
		return err
	}
	s.beginCare(ctx, s.uplink.Name)
	if err = s.openStore(ctx); err != nil {
		return err
	}
	if s.config, err = s.store.Config(ctx); err != nil {
		return err
	}
	if s.uplink, err = s.findUplink(); err != nil {
		return err
	}
	s.keep6 = s.uplink.Addr6
	if err = s.acquire(ctx); err != nil {
		return err
	}
	s.ensureFirewall() // before packets take a way that it may close
	s.ensureBlackhole()
	s.ensureHeadroom(ctx)
	if err = s.openOverlay(ctx); err != nil {
		return err
	}
	s.endCare()
	if s.dataplane, err = s.openDataplane(); err != nil {
		return err
	}
	// Last, not to be said each second while something after it fails.
	s.log.Info("lease acquired", "subnets", s.subnets(), "node", s.uplink.Addrs(), "uplink", s.uplink.Name,
		"backend", s.encap(), "mtu", s.mtu())
	return nil
}

// findUplink finds the uplink that has what the network needs. ipip packets
// of either family go by either.
func (s *session) findUplink() (underlay.Uplink, error) {
	o := s.Underlay
	o.IPv4, o.IPv6, o.Keep6 = s.config.EnableIPv4, s.config.EnableIPv6, s.keep6
	if s.config.Backend.Type == topology.EncapIPIP {
		o.IPv4, o.IPv6, o.Either = true, true, true
	}
	return underlay.Find(o)
}

func (s *session) openStore(ctx context.Context) error {
	o := s.Etcd
	o.Logger = s.log
	o.Outage = func(err error) { s.reporter.note("etcd server", err) }
	if s.Embedded.Dir != "" {
		if err := s.startEtcd(ctx, s.uplink.Addrs()[0]); err != nil {
			return err
		}
		o.Endpoints = s.etcd.endpoints()
	}
	s.status.update(func(now *Status) { now.Etcd = etcdAccess(o) })
	var err error
	if s.store, err = store.Open(ctx, o); err != nil {
		return err
	}
	if s.InitConfig == "" {
		return nil
	}
	created, err := s.store.CreateConfig(ctx, []byte(s.InitConfig))
	if err != nil {
		return fmt.Errorf("write network config: %w", err)
	}
	if created {
		s.log.Info("wrote the network config", "config", s.InitConfig)
	}
	return nil
}

// acquire takes this node's subnet, one of each family.
func (s *session) acquire(ctx context.Context) error {
	for _, w := range s.config.Warnings() {
		s.log.Warn(w)
	}
	env, err := store.ReadSubnetEnv(s.SubnetFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("ignoring the subnet file: the lease is chosen without it", "file", s.SubnetFile, "error", err)
	}
	b := s.config.Backend
	s.families = s.newFamilies()
	if b.Type == topology.EncapVXLAN && b.MTU > s.uplink.MTU {
		s.log.Warn("Backend.MTU is more than the uplink carries, whose own is used: lower it, or raise the uplink's",
			"mtu", b.MTU, "uplink", s.uplink.Name, "uplink mtu", s.uplink.MTU)
	}
	s.held, err = s.store.Acquire(ctx, s.config, store.Want{
		PublicIP: s.uplink.PublicIP, PublicIPv6: s.uplink.PublicIPv6, Backend: b.Type, VNI: b.VNI,
		MAC: vtepMAC(s.uplink.Addr, b.VNI), MACv6: vtepMAC(s.uplink.Addr6, b.VNI),
		Prefer: env.Subnet, Prefer6: env.IPv6Subnet, Had: s.had, ZeroChecksum6: s.takesZeroChecksum(),
	})
	if err != nil {
		return err
	}
	s.had = s.held.Lease()
	s.reporter.report("lease", nil)
	for _, f := range s.families {
		f.lease(s.had)
	}
	return nil
}

// takesZeroChecksum reports whether this node may tell others that it takes
// vxlan over IPv6 without a UDP checksum.
func (s *session) takesZeroChecksum() bool {
	b := s.config.Backend
	if b.Type != topology.EncapVXLAN || !s.config.EnableIPv6 || !s.UDP6ZeroChecksum {
		return false
	}
	takes, err := netlink.TakesZeroChecksum(b.VNI)
	switch {
	case err != nil:
		s.log.Warn("others send this node UDP checksums over IPv6, and superpackets by the kernel's device: "+
			"whether that takes packets without is unknown", "error", err)
	case !takes:
		s.log.Info("others send this node UDP checksums over IPv6, and superpackets by the kernel's device: this node's, " +
			"which flanneld or an older bpfnet has made, takes no packets without; a reboot ends that, or a moment without packets: ip link delete " + netlink.Overlay6Name)
	}
	return takes
}

// maxTunnelled is the longest packet with a tunnel header that there may be, bytes, whatever the uplink
// carries. bpf_skb_adjust_room() makes none longer than BPF_SKB_MAX_LEN (net/core/filter.c), superpackets
// apart: 16 KiB less struct skb_shared_info, which has 320 to 768 bytes, and Ethernet's header counts.
const maxTunnelled = 15600

// containerMTU is what the underlay carries less the outer headers of packets from node. With vxlan
// that may be configured where it is less than the uplink's; flannel reads
// Backend.MTU in no other of these backends (pkg/backend/vxlan/vxlan.go).
func containerMTU(b store.Backend, uplink int, node netip.Addr) int {
	if b.Type != topology.EncapNone {
		uplink = min(uplink, maxTunnelled)
	}
	if b.Type == topology.EncapVXLAN && b.MTU != 0 {
		uplink = min(uplink, b.MTU)
	}
	return uplink - b.Type.Overhead(node)
}

// vtepMAC is the VTEP MAC, in one family, of a node whose lease in etcd names none: the same
// after every restart and reboot with no file to keep it in, for it is a hash of
// what makes the node this one.
// Locally administered, unicast (IEEE 802, 8.2).
func vtepMAC(node netip.Addr, vni uint32) topology.MAC {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		id = nil // the address alone has to do
	}
	h := sha256.New()
	h.Write(id)
	h.Write(node.AsSlice())
	h.Write(binary.BigEndian.AppendUint32(nil, vni))
	mac := topology.MAC(h.Sum(nil)[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

func (s *session) openOverlay(ctx context.Context) error {
	for _, f := range s.families {
		changed, err := netlink.EnsureForwarding(f.self)
		if err != nil {
			return fmt.Errorf("enable IP forwarding: %w", err)
		}
		if len(changed) > 0 {
			s.log.Info("switched on the kernel's forwarding: containers' packets need it", "sysctls", changed)
		}
	}
	if s.usesTunnel() {
		if err := s.startTunnel(ctx); err != nil {
			return err
		}
	}
	if _, err := s.ensureOverlays(); err != nil {
		return fmt.Errorf("set up overlay device: %w", err)
	}
	return nil
}

func (s *session) close() error {
	var errs error
	if s.dataplane != nil {
		errs = s.dataplane.close()
	}
	if s.store != nil {
		errs = errors.Join(errs, s.store.Close())
	}
	return errs
}

// run keeps the dataplane equal to etcd until ctx ends, a task fails, or the
// ground changes.
func (s *session) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	l := newLoop(s)
	g.Go(func() error { return s.store.Watch(ctx, l.update) })
	g.Go(func() error { return s.held.Keep(ctx, s.RenewMargin, l.leaseEvent) })
	g.Go(func() error { return s.store.WatchConfig(ctx, l.configChanged) })
	g.Go(func() error { return underlay.Watch(ctx, l.underlayChanged) })
	g.Go(func() error { return s.watchEtcd(ctx) })
	g.Go(func() error { return s.watchTunnel(ctx) })
	g.Go(func() error { return s.keepFirewall(ctx) })
	g.Go(func() error { return s.choice.watch(ctx, s.kind) })
	g.Go(func() error { return l.run(ctx) })
	g.Go(func() error { return l.serve(ctx) })
	return g.Wait()
}

// ready tells others that everything is in place: those who ask, the service
// manager, and who wanted this dataplane.
func (s *session) ready() {
	s.status.update(func(now *Status) { now.Ready = true })
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		s.log.Warn("cannot tell the service manager", "error", err)
	}
	s.choice.done(nil)
	s.log.Info("ready", "subnets", s.subnets(), "dataplane", s.kind, "peers", s.status.brief().Peers)
}
