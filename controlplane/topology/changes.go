// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"net/netip"
	"slices"
	"strings"
)

// Changes are the peers that differ between two states of one Self, as they
// were and as they are, each sorted by Key. What it costs to follow a change
// should not grow with the cluster.
//
// With a peer that differs come those that do not but have its node's address or
// its VTEP MAC: of two that want one entry of a table, who gets it depends on both.
func Changes(before, after []Peer) (was, is []Peer) {
	if len(before) == len(after) && (len(before) == 0 || &before[0] == &after[0]) {
		return nil, nil // one list, which nobody writes to
	}
	was, is, same := split(before, after, func(p *Peer) string { return p.Key })
	if len(was)+len(is) == 0 {
		return nil, nil
	}
	c := common{nodes: map[netip.Addr]bool{}, macs: map[MAC]bool{}}
	c.add(was)
	c.add(is)
	for len(same) > 0 {
		var with []Peer
		same = slices.DeleteFunc(same, func(i int) bool {
			shares := c.has(&after[i])
			if shares {
				with = append(with, after[i])
			}
			return shares
		})
		if len(with) == 0 {
			break
		}
		c.add(with) // who may share with yet others
		was, is = append(was, with...), append(is, with...)
	}
	byKey := func(a, b Peer) int { return strings.Compare(a.Key, b.Key) }
	slices.SortFunc(was, byKey)
	slices.SortFunc(is, byKey)
	return was, is
}

// split tells, of what is sorted by key, that which differs from that which is the same, by its places in after.
func split[T comparable](before, after []T, key func(*T) string) (was, is []T, same []int) {
	same = make([]int, 0, min(len(before), len(after)))
	i, j := 0, 0
	for i < len(before) && j < len(after) {
		switch order := strings.Compare(key(&before[i]), key(&after[j])); {
		case order < 0:
			was = append(was, before[i])
			i++
		case order > 0:
			is = append(is, after[j])
			j++
		default:
			if before[i] == after[j] {
				same = append(same, j)
			} else {
				was, is = append(was, before[i]), append(is, after[j])
			}
			i++
			j++
		}
	}
	return append(was, before[i:]...), append(is, after[j:]...), same
}

// common is what peers may share.
type common struct {
	nodes map[netip.Addr]bool
	macs  map[MAC]bool
}

func (c common) add(peers []Peer) {
	for i := range peers {
		c.nodes[peers[i].Node] = true
		if peers[i].Encap == EncapVXLAN {
			c.macs[peers[i].VTEP.MAC] = true
		}
	}
}

func (c common) has(p *Peer) bool {
	return c.nodes[p.Node] || p.Encap == EncapVXLAN && c.macs[p.VTEP.MAC]
}
