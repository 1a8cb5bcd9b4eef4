// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/test/lab"
)

// seen is a packet of a row where it was seen.
type seen struct {
	lab.Packet
	lab.Decoded
	inner lab.IP // the innermost header
	back  bool   // an answer
}

// row is one cell of the matrix.
type row struct {
	*matrix
	way      way
	kind     kind
	offload  offload
	family   lab.Families
	from, to spot
	seen     map[point][]seen
	noise    map[point]uint64 // packets that are none of the row's
	before   [2]lab.Counters
}

const settleTimeout = lab.Patience * 5 * time.Second

// row sends, waits until all of it has been counted, and looks at what was seen.
func (m *matrix) row(t *testing.T, w way, f lab.Families, k kind, o offload) {
	r := &row{matrix: m, way: w, kind: k, offload: o, family: f, seen: map[point][]seen{}, noise: map[point]uint64{}}
	r.from, r.to = w.ends(m, f)
	if !r.from.addr.IsValid() {
		r.from.addr = sourceOf(t, r.from.ns, r.to.addr)
	}
	r.begin(t)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, k.run(ctx, r))
	r.settle(t)
	r.checkWire(t)
}

// begin reads the counters while nothing passes that is both counted before and seen later.
func (r *row) begin(t *testing.T) {
	t.Helper()
	until(t, "nothing passes", func() (bool, error) {
		if err := r.look(); err != nil {
			return false, err
		}
		clear(r.seen)
		clear(r.noise)
		for i, set := range r.maps {
			if set == nil {
				continue
			}
			var err error
			if r.before[i], err = lab.CountersOf(set); err != nil {
				return false, err
			}
		}
		err := r.look()
		return len(r.seen)+len(r.noise) == 0, err
	})
}

// look takes what the captures have.
func (r *row) look() error {
	for i, c := range r.captures {
		packets, err := c.Take()
		if err != nil {
			return err
		}
		for _, p := range packets {
			at := point{i.ns, i.name, p.Outgoing}
			s := seen{Packet: p, Decoded: lab.Decode(p)}
			if n := len(s.IP); n > 0 {
				s.inner = s.IP[n-1]
				there := s.inner.Src == r.from.addr && s.inner.Dst == r.to.addr
				s.back = s.inner.Src == r.to.addr && s.inner.Dst == r.from.addr
				if (there || s.back) && !s.neighbourDiscovery() {
					r.seen[at] = append(r.seen[at], s)
					continue
				}
			}
			r.noise[at]++
		}
	}
	return nil
}

// neighbourDiscovery says whether it is RFC 4861's, which has the kernels' own times.
func (s seen) neighbourDiscovery() bool {
	if len(s.ICMPv6) == 0 {
		return false
	}
	kind := s.ICMPv6[0].TypeCode.Type()
	return kind >= layers.ICMPv6TypeRouterSolicitation && kind <= layers.ICMPv6TypeRedirect
}

// at are the packets of one direction seen at a place.
func (r *row) at(p place, back bool) (all []seen) {
	for _, s := range r.seen[p(r.matrix, r.family)] {
		if s.back == back {
			all = append(all, s)
		}
	}
	return all
}

// settle waits until every packet has been counted, and has arrived everywhere.
func (r *row) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTimeout)
	defer cancel()
	var differs error
	err := lab.Until(ctx, "all is counted", func() (bool, error) {
		if err := r.look(); err != nil {
			return false, err
		}
		differs = errors.Join(r.checkCounters(), r.checkPieces())
		return differs == nil, nil
	})
	if err != nil {
		t.Errorf("%v: %v", err, differs)
	}
}
