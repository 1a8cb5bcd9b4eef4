// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/xdp"
	"github.com/bpfnet/bpfnet/maps"
)

// SocketName is the control socket's name in the run directory: HTTP, GET and
// HEAD /status, PUT /dataplane/NAME.
const SocketName = "bpfnet.sock"

// Status is what GET /status answers, with 200 once the node serves the
// network and 503 until then.
type Status struct {
	Ready      bool         `json:"ready"`
	Node       netip.Addr   `json:"node"`
	Lease      string       `json:"lease,omitempty"` // the key of the node's own, under PREFIX/subnets/
	Subnet     netip.Prefix `json:"subnet"`
	Network    netip.Prefix `json:"network"`
	Node6      netip.Addr   `json:"node6,omitzero"` // likewise of IPv6, where the network has it
	Subnet6    netip.Prefix `json:"subnet6,omitzero"`
	Network6   netip.Prefix `json:"network6,omitzero"`
	Backend    string       `json:"backend,omitempty"`
	Dataplane  Dataplane    `json:"dataplane,omitempty"`
	XDP        *xdp.Choice  `json:"xdp,omitempty"` // of the ebpf dataplane
	MTU        int          `json:"mtu,omitempty"`
	Revision   int64        `json:"revision"` // of etcd, applied
	Peers      []PeerStatus `json:"peers"`
	Containers int          `json:"containers"`            // links with from_container
	Endpoints  int          `json:"endpoints"`             // containers whose address is known
	KernelView *KernelView  `json:"kernel_view,omitempty"` // while it is incomplete
	Problems   []Problem    `json:"problems"`
	Etcd       EtcdAccess   `json:"etcd,omitzero"`
	Copied     *Copied      `json:"copied,omitempty"` // by the userspace copy of a udp network

	// Packets that the programs dropped since their maps were made, by program and reason
	// ("from_network spoofed_source"); nil where no program is in force.
	Dropped map[string]uint64 `json:"dropped,omitzero"`
}

// KernelView is how far the kernel's own routes, neighbours and FDB entries
// have come, peers: in a large cluster they are written after the datapath's
// maps, by which the node serves already.
type KernelView struct {
	Written int `json:"written"`
	Peers   int `json:"peers"`
}

// Copied is what the userspace copy has done since it started.
type Copied struct {
	Sent      uint64            `json:"sent"`      // packets, as are all of these
	Delivered uint64            `json:"delivered"` // to this node
	Drops     map[string]uint64 `json:"drops"`     // by reason, those that there were
}

func copied(s udptun.Stats) *Copied {
	c := &Copied{Sent: s.Sent.Packets, Delivered: s.Delivered.Packets, Drops: map[string]uint64{}}
	for reason, packets := range s.Drops {
		if packets > 0 {
			c.Drops[reason.String()] = packets
		}
	}
	return c
}

// EtcdAccess is how the daemon reaches etcd, for others on its node to do the
// same; a password it does not tell.
type EtcdAccess struct {
	Endpoints []string `json:"endpoints"`
	Prefix    string   `json:"prefix"`
	CAFile    string   `json:"ca_file,omitempty"`
	CertFile  string   `json:"cert_file,omitempty"`
	KeyFile   string   `json:"key_file,omitempty"`
	Username  string   `json:"username,omitempty"`
}

func etcdAccess(o store.Options) EtcdAccess {
	return EtcdAccess{o.Endpoints, o.Prefix, o.CAFile, o.CertFile, o.KeyFile, o.Username}
}

// PeerStatus is one lease served.
type PeerStatus struct {
	Lease   string       `json:"lease"`
	Subnet  netip.Prefix `json:"subnet"`
	Node    netip.Addr   `json:"node"`
	Encap   string       `json:"encap"`
	NextHop netip.Addr   `json:"next_hop"`
	VTEPMAC string       `json:"vtep_mac,omitempty"`
}

// Problem is something wrong now.
type Problem struct {
	Source string `json:"source"`
	Key    string `json:"key,omitempty"`
	Text   string `json:"text"`
}

func sortProblems(p []Problem) {
	slices.SortFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Text, b.Text))
	})
}

// status is the current Status, for the control socket to read.
type status struct {
	mu     sync.Mutex
	now    Status          // without Peers
	peers  []topology.Peer // which others hold too
	tunnel *udptun.Tunnel  // that runs; nil for none
	counts *maps.Counters  // of the programs; nil for none
}

func (s *status) update(f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.now)
}

func (s *status) fail() { s.update(func(now *Status) { now.Ready = false }) }

func (s *status) get() Status {
	s.mu.Lock()
	now, peers := s.now, s.peers
	if s.tunnel != nil {
		now.Copied = copied(s.tunnel.Stats())
	}
	if s.counts != nil {
		now.Dropped = dropped(s.counts)
	}
	s.mu.Unlock()
	now.Peers = peerStatus(peers) // made for who asks, not at each change
	return now
}

// dropped is what can be read of what the programs dropped.
func dropped(counters *maps.Counters) map[string]uint64 {
	counts, _ := counters.Read()
	drops := map[string]uint64{}
	for _, c := range counts {
		if c.Verdict == "drop" {
			drops[c.Program+" "+c.Reason] = c.Packets
		}
	}
	return drops
}

// Brief is the least of a Status.
type Brief struct {
	Ready      bool
	Peers      int
	KernelView int // of these, how many the kernel's own tables serve: see [KernelView]
}

func (s *status) brief() Brief {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Brief{Ready: s.now.Ready, Peers: len(s.peers), KernelView: len(s.peers)}
	if v := s.now.KernelView; v != nil {
		b.KernelView = v.Written
	}
	return b
}

func (s *status) setPeers(peers []topology.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = peers
}

func (s *status) setTunnel(t *udptun.Tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tunnel = t
}

// setCounters has the programs' counters read for who asks. They must not be
// closed before others, or nil, are set.
func (s *status) setCounters(c *maps.Counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = c
}

func peerStatus(peers []topology.Peer) []PeerStatus {
	all := make([]PeerStatus, 0, len(peers))
	for _, p := range peers {
		ps := PeerStatus{Lease: p.Key, Subnet: p.Subnet, Node: p.Node, Encap: string(p.Encap), NextHop: p.Path.NextHop}
		if p.Encap == topology.EncapVXLAN {
			ps.VTEPMAC = p.VTEP.MAC.String()
		}
		all = append(all, ps)
	}
	return all
}

// maxSocketPath is the longest path of a unix socket, in bytes: a NUL follows it (unix(7)).
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// listen serves the status on the control socket.
func (n *node) listen() (*httpServer, error) {
	path := filepath.Join(n.RunDir, SocketName)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on control socket %s: path of %d bytes, the most is %d: choose a shorter --run-dir",
			path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	return n.serveHTTP(l, map[string]http.HandlerFunc{
		"GET /status":           n.serveStatus,
		"PUT /dataplane/{name}": n.serveDataplane,
	}), nil
}

// The numbers of a Brief, in an answer without the list (HEAD): of 100,000 peers
// that is 20 MB.
const (
	peersHeader      = "Bpfnet-Peers"
	kernelViewHeader = "Bpfnet-Kernel-View"
)

func (n *node) serveStatus(w http.ResponseWriter, r *http.Request) {
	brief := n.status.brief()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(peersHeader, strconv.Itoa(brief.Peers))
	w.Header().Set(kernelViewHeader, strconv.Itoa(brief.KernelView))
	if !brief.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if r.Method == http.MethodHead {
		return
	}
	s := n.status.get()
	s.Ready, s.Problems = brief.Ready, n.reporter.problems()
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s) // the reader went away
}
