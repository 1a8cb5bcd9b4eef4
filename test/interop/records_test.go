// SPDX-License-Identifier: Apache-2.0

//go:build root

package interop

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestRecords has flanneld and bpfnet take turns on one node. What they say of
// it in etcd and in subnet.env has to be the same, byte for byte (SCENARIOS B1,
// B4): a lease goes over to the other, its VTEP MAC too, and so does the subnet
// of a lease that is gone. One field is bpfnet's own, of a node whose vxlan device over IPv6 is.
func TestRecords(t *testing.T) {
	for _, m := range slices.Concat(modes(), []mode{direct}, dualStack) {
		for _, masquerade := range []string{"--ip-masq=true", "--ip-masq=false"} {
			t.Run(m.name+" "+masquerade, func(t *testing.T) { testRecords(t, m, masquerade) })
		}
	}
}

func testRecords(t *testing.T, m mode, masquerade string) {
	c := up(t, m, kernels, 1)
	n := c.nodes[0]
	flannels := n.says(t, c, n.flanneld, masquerade)
	equal(t, "bpfnet after flanneld", flannels, n.says(t, c, n.bpfnet, masquerade))
	n.cleanup(t)
	c.remove(t, n)
	ours := n.says(t, c, n.bpfnet, masquerade)
	const own = `,"UDP6ZeroChecksumRx":true`
	if m.backend == topology.EncapVXLAN && m.inner == lab.Dual {
		i := len(ours.Records) - 1
		whole := ours.Records[i].Value
		ours.Records[i].Value = strings.Replace(whole, own, "", 1)
		if whole == ours.Records[i].Value {
			t.Errorf("bpfnet's record has no %s: %s", own, whole)
		}
	}
	equal(t, "bpfnet without a lease", withoutMAC(flannels), withoutMAC(ours))
	n.cleanup(t)
	equal(t, "flanneld after bpfnet", withoutMAC(ours), withoutMAC(n.says(t, c, n.flanneld, masquerade)))
}

// said is all that a node tells others.
type said struct {
	Records   []record
	SubnetEnv string
}

// says runs an agent on a node and returns what it tells.
func (n *node) says(t *testing.T, c *cluster, a agent, args ...string) said {
	t.Helper()
	a.start(t, args...)
	defer a.stop(t)
	env, err := os.ReadFile(n.SubnetFile())
	noError(t, err)
	return said{c.records(t), string(env)}
}

var mac = regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}`)

// withoutMAC leaves out what is each agent's own where no lease says it.
func withoutMAC(s said) said {
	for i := range s.Records {
		s.Records[i].Value = mac.ReplaceAllString(s.Records[i].Value, "MAC")
	}
	return s
}
