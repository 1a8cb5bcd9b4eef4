// SPDX-License-Identifier: Apache-2.0

//go:build root

package ebpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// The random networks have so many blocks of 512 addresses, from 172.246.0.0 on,
// and so many nodes.
const (
	randomBlocks = 6
	randomNodes  = 5
)

// splits are the ways a block is given to nodes: not at all, whole (which only
// the trie takes), by a slot of the index or two, and by parts of one.
var splits = [][]string{
	{}, {"0.0/23"}, {"0.0/24"}, {"1.0/24"}, {"0.0/24", "1.0/24"},
	{"0.0/25"}, {"0.128/25", "1.0/24"}, {"0.0/25", "0.128/26", "1.64/26"},
}

// randomState gives each block to random nodes, each of which has a random VTEP
// MAC, way there and encapsulation.
func randomState(r *rand.Rand) topology.State {
	nodes := make([]topology.Peer, randomNodes)
	for i := range nodes {
		encap := topology.EncapVXLAN
		if r.IntN(4) == 0 {
			encap = topology.EncapNone
		}
		nodes[i] = peerOf("0.0.0.0/0", fmt.Sprintf("192.168.32.%d", 100+i), encap,
			topology.MAC{0xc6, 0, 0, 0, byte(i), byte(r.IntN(2))})
		if r.IntN(3) == 0 {
			nodes[i].Path.NextHop = netip.MustParseAddr("192.168.32.1")
		}
		nodes[i].Path.MTU -= 100 * r.IntN(2)
	}
	s := stateOf()
	for block := range randomBlocks {
		for _, part := range splits[r.IntN(len(splits))] {
			third, rest, _ := strings.Cut(part, ".")
			p := nodes[r.IntN(len(nodes))]
			p.Subnet = netip.MustParsePrefix(fmt.Sprintf("172.246.%d.%s", 2*block+int(third[0]-'0'), rest))
			p.Key = strings.ReplaceAll(p.Subnet.String(), "/", "-")
			if p.Encap == topology.EncapVXLAN {
				p.VTEP.Addr = p.Subnet.Addr()
			}
			s.Peers = append(s.Peers, p)
		}
	}
	return sorted(s)
}

func sorted(s topology.State) topology.State {
	slices.SortFunc(s.Peers, func(a, b topology.Peer) int { return strings.Compare(a.Key, b.Key) })
	return s
}

// mixed is two random states' blocks by turns: what the first had of a block and
// keeps meets the nodes of the second, some with their address or VTEP MAC.
func mixed(r *rand.Rand, kept, other topology.State) topology.State {
	s := stateOf()
	for block := range randomBlocks {
		from := kept
		if r.IntN(3) == 0 {
			from = other
		}
		all := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 246, byte(2 * block)}), 23)
		for _, p := range from.Peers {
			if all.Contains(p.Subnet.Addr()) {
				p.VTEP.MAC[4] = byte(r.IntN(3)) * p.VTEP.MAC[4] / 2
				s.Peers = append(s.Peers, p)
			}
		}
	}
	return sorted(s)
}

// TestRandomStates: after each of many states the maps serve exactly what the last one
// says, whether or not a new daemon applied it; a peer that did not change keeps its entry; and no entry
// that was there is another or gone, for a packet may be on its way by it, before a sweep.
func TestRandomStates(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, nil)
	d := r.dataplane(t)
	var s topology.State
	for step := range 200 {
		if random.IntN(10) == 0 {
			r.set = mustGet[*maps.Set](t)(maps.NewSet(r.coll.Maps))
			d = r.dataplane(t)
		}
		before := r.hosts(t)
		s = mixed(random, s, randomState(random))
		must(t, d.Apply(s))
		r.checkServed(t, s)
		after := r.hosts(t)
		for index, h := range before {
			if after[index] != h {
				t.Fatalf("step %d: entry %d was %+v, is %+v", step, index, h, after[index])
			}
		}
		if len(indexes(after)) != len(after) {
			t.Fatalf("step %d: an entry is there twice: %+v", step, after)
		}
		if random.IntN(3) > 0 {
			continue
		}
		must(t, d.Sweep())
		r.check(t, s)
	}
}

// hosts is the host entries of other nodes.
func (r *rig) hosts(t *testing.T) map[uint32]maps.Host {
	t.Helper()
	hosts := mustGet[map[uint32]maps.Host](t)(r.set.Hosts.All())
	delete(hosts, hostSelf)
	return hosts
}

// indexes is where host entries are, by content.
func indexes(hosts map[uint32]maps.Host) map[maps.Host]uint32 {
	indexes := map[maps.Host]uint32{}
	for index, h := range hosts {
		indexes[h] = index
	}
	return indexes
}

// TestRandomStatesInFullMaps: where there is not room for all, no route points
// to an empty entry or to another node's than one the subnet had or gets; and
// once all fit again, the maps hold exactly the state.
func TestRandomStatesInFullMaps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 8 {
		r := newRig(t, sizes{
			"hosts": 4 + random.Uint32N(6), "routes": 1 + random.Uint32N(8), "nodes": 1 + random.Uint32N(5),
			"neigh": 1 + random.Uint32N(8), "fdb": 1 + random.Uint32N(5),
		})
		d := r.dataplane(t)
		had := map[netip.Prefix]map[netip.Addr]bool{}
		for range 20 {
			s := randomState(random)
			for _, p := range s.Peers {
				if had[p.Subnet] == nil {
					had[p.Subnet] = map[netip.Addr]bool{}
				}
				had[p.Subnet][p.Node] = true
			}
			_ = d.Apply(s) // some do not fit
			for subnet, h := range r.content(t).Routes {
				if subnet != s.Self.Subnet && !had[subnet][h.Node] {
					t.Fatalf("%s goes to %s, which it never belonged to", subnet, h.Node)
				}
			}
		}
		r.heal(t, d, stateOf(testPeer(topology.EncapVXLAN)))
	}
}

// window is the states that a packet may be handled by: one where nothing is
// being applied, else that before and that after.
type window struct {
	number int
	states []topology.State
}

// applies is how many states TestEveryPacketWhileApplied applies at least.
const applies = 400

// TestEveryPacketWhileApplied sends packets by the program from_host while
// random states are applied. Each goes by what its subnet had before or has
// after, byte for byte of the outer header; none is sent by half an entry, by
// another's, or not at all.
func TestEveryPacketWhileApplied(t *testing.T) {
	const readers = 2
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newRig(t, sizes{"hosts": 64}) // reused soon
	d := r.dataplane(t)
	random := rand.New(rand.NewPCG(seed, 0))
	state := randomState(random)
	must(t, d.Apply(state))
	var now atomic.Pointer[window]
	now.Store(&window{0, []topology.State{state}})

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	var seen [readers]tally
	var contented atomic.Int32
	for i := range readers {
		g.Go(func() error {
			return sendAll(ctx, r.coll.Programs["from_host"], &now, &seen[i], &contented, rand.New(rand.NewPCG(seed, uint64(i+1))))
		})
	}
	const most = 100 * applies // on few processors a reader sees little of each
	for n := 1; (n <= applies || contented.Load() < readers && n <= most) && ctx.Err() == nil; n++ {
		next := randomState(random)
		now.Store(&window{2*n - 1, []topology.State{state, next}})
		must(t, d.Apply(next))
		if random.IntN(4) == 0 {
			must(t, d.Sweep())
		}
		now.Store(&window{2 * n, []topology.State{next}})
		state = next
	}
	stop()
	must(t, g.Wait())
	for i, s := range seen {
		t.Logf("reader %d: %+v", i, s)
		if !s.enough() {
			t.Errorf("reader %d saw too little: %+v", i, s)
		}
	}
}

// tally counts what became of packets, and how many were sent while a state was being applied.
type tally struct{ tunnelled, plain, passed, during int }

func (t *tally) enough() bool {
	return t.tunnelled >= applies && t.plain >= applies/10 && t.passed >= applies/10 && t.during >= applies/10
}

// sendAll sends until ctx ends, and adds to contented when it has seen enough.
func sendAll(ctx context.Context, prog *ebpf.Program, now *atomic.Pointer[window], seen *tally, contented *atomic.Int32, random *rand.Rand) error {
	content := false
	for ctx.Err() == nil {
		dst := netip.AddrFrom4([4]byte{172, 246, byte(random.IntN(2 * randomBlocks)), byte(random.Uint32())})
		before := now.Load()
		sent, err := send(prog, dst)
		if err != nil {
			return err
		}
		after := now.Load()
		if after.number > before.number+1 {
			continue // too much happened meanwhile to say what is right
		}
		states := append(before.states[:len(before.states):len(before.states)], after.states...)
		if err := judge(sent, dst, states); err != nil {
			return fmt.Errorf("packet to %s: %w", dst, err)
		}
		seen.add(sent, len(states) > 2)
		if !content && seen.enough() {
			content = true
			contented.Add(1)
		}
	}
	return nil
}

func (t *tally) add(p sentPacket, during bool) {
	switch {
	case !p.sent:
		t.passed++
	case len(p.header) > 0:
		t.tunnelled++
	default:
		t.plain++
	}
	if during {
		t.during++
	}
}

// sentPacket is what from_host made of a packet.
type sentPacket struct {
	sent   bool   // on to the uplink, rather than left to the kernel
	header []byte // pushed in front of it
}

const payload = "bpfnet"

// send runs from_host on a packet of this node.
func send(prog *ebpf.Program, dst netip.Addr) (sentPacket, error) {
	const ttl, protocol = 61, 253 // RFC 3692: for experiments
	ip := ipv4Header(protocol, ttl, 0, testSelf("").Node, dst)
	binary.BigEndian.PutUint16(ip[2:], uint16(ipv4Len+len(payload)))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^internetSum(ip))
	ip = append(ip, payload...)
	frame := append(append(make([]byte, 12), 0x08, 0x00), ip...)
	run := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+128)}
	verdict, err := prog.Run(run)
	if err != nil {
		return sentPacket{}, fmt.Errorf("run from_host: %w", err)
	}
	const redirect, next = 7, ^uint32(0) // TC_ACT_REDIRECT, TCX_NEXT
	out := run.DataOut
	pushed := len(out) - len(frame)
	if pushed < 0 || !bytes.Equal(out[ethLen+pushed:], ip) || verdict == next && pushed > 0 {
		return sentPacket{}, fmt.Errorf("% x became % x", frame, out)
	}
	switch verdict {
	case redirect:
		return sentPacket{true, out[ethLen : ethLen+pushed]}, nil
	case next:
		return sentPacket{}, nil
	}
	return sentPacket{}, fmt.Errorf("dropped: verdict %d", int32(verdict))
}

// judge holds a packet against what one of the states says.
func judge(p sentPacket, dst netip.Addr, states []topology.State) error {
	var want []string
	for _, s := range states {
		h, ok, err := hostOf(s, dst)
		if err != nil {
			return err
		}
		if ok == p.sent && (!ok || bytes.Equal(p.header, completeLike(h, p.header))) {
			return nil
		}
		want = append(want, fmt.Sprintf("sent %t by %+v", ok, h))
	}
	return fmt.Errorf("sent %t with header % x; want one of\n%s", p.sent, p.header, strings.Join(want, "\n"))
}

func hostOf(s topology.State, dst netip.Addr) (maps.Host, bool, error) {
	for _, p := range s.Peers {
		if p.Subnet.Contains(dst) {
			h, err := hostEntry(s.Self, p)
			return h, true, err
		}
	}
	return maps.Host{}, false, nil
}

// completeLike completes an entry's header with the IP ID and source port of one that was seen.
func completeLike(h maps.Host, seen []byte) []byte {
	if len(seen) < ipv4Len+udpLen || h.HeaderLen == 0 {
		return h.Header[:h.HeaderLen]
	}
	return complete(h, inner{
		len: uint16(ipv4Len + len(payload)), ttl: 61,
		id: binary.BigEndian.Uint16(seen[4:]), sourcePort: binary.BigEndian.Uint16(seen[20:]),
	})
}
