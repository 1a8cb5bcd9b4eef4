// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"context"
	"slices"
	"strings"
	"testing"

	nodestatus "github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestLeftByFlannel starts bpfnet where flanneld was killed, and h3 left while
// nobody looked: nothing that flanneld has left may lead to it, and nothing to
// h2 either once that leaves too. A route by h3 itself could be a person's: it
// is told of, with the command that removes it.
func TestLeftByFlannel(t *testing.T) {
	matrix(t, append(modes(), direct), func(t *testing.T, m mode, dp dataplane) {
		c := up(t, m, dp, 3)
		h1, h2, h3 := c.nodes[0], c.nodes[1], c.nodes[2]
		for _, n := range c.nodes {
			n.flanneld.start(t)
		}
		meet(t, h1.container().NS, h2.container().Addr)
		meet(t, h1.container().NS, h3.container().Addr)
		macs := map[*node]string{h2: vtepMAC(t, c, h2), h3: vtepMAC(t, c, h3)}
		h1.flanneld.kill(t)
		h3.flanneld.stop(t)
		c.remove(t, h3)
		h1.bpfnet.start(t)
		if m.wire() == topology.EncapNone {
			stray := "ip route del " + h3.Subnet.String() + " via " + h3.Addr.String()
			h1.tells(t, h3.Subnet.String(), stray)
			run(t, h1.NS, strings.Fields(stray)...)
		}
		h1.knowsNothingOf(t, h3, macs[h3])
		h2.flanneld.stop(t)
		c.remove(t, h2)
		h1.knowsNothingOf(t, h2, macs[h2])
	})
}

// tells waits until the status of a node's bpfnet has a problem of that key
// whose text contains a command.
func (n *node) tells(t *testing.T, key, command string) {
	t.Helper()
	until(t, n.Name+" tells of "+key+" to "+command, func() (bool, error) {
		s, err := n.DaemonStatus(t.Context())
		return slices.ContainsFunc(s.Problems, func(p nodestatus.Problem) bool {
			return p.Key == key && strings.Contains(p.Text, command)
		}), err
	})
}

// knowsNothingOf waits until no table of a node's kernel leads to another.
func (n *node) knowsNothingOf(t *testing.T, other *node, vtepMAC string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var tables string
	err := lab.Until(ctx, n.Name+" knows nothing of "+other.Name, func() (bool, error) {
		tables = n.tables(t)
		return !strings.Contains(tables, other.Subnet.String()) && !strings.Contains(tables, other.Subnet.Addr().String()) &&
			(vtepMAC == "" || !strings.Contains(tables, vtepMAC)) &&
			(!other.Subnet6.IsValid() || !strings.Contains(tables, other.Subnet6.Addr().String())), nil
	})
	if err != nil {
		t.Errorf("%v:\n%s", err, tables)
	}
}

// tables are the kernel's that packets to other nodes go by.
func (n *node) tables(t *testing.T) string {
	t.Helper()
	tables := run(t, n.NS, "bridge", "fdb", "show")
	for _, family := range []string{"-4", "-6"} {
		tables += run(t, n.NS, "ip", family, "route", "show", "table", "all") + run(t, n.NS, "ip", family, "neigh", "show", "nud", "all")
	}
	return tables
}
