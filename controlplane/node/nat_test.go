// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/nat"
	"github.com/bpfnet/bpfnet/maps"
)

// TestNATShortfall: people are told of what the NAT takes the fast path from, and of nothing else.
func TestNATShortfall(t *testing.T) {
	rules := nat.Found{Mode: maps.NATConntrack, By: "chain DOCKER of nftables' table nat"}
	for name, test := range map[string]struct {
		found     nat.Found
		err       error
		slow      bool // no fast path in any case
		conntrack bool
		want      string // in what they are told; empty: nothing
	}{
		"no NAT":                     {conntrack: true},
		"no NAT, old kernel":         {},
		"NAT":                        {found: rules, conntrack: true},
		"NAT, old kernel":            {found: rules, want: "chain DOCKER of nftables' table nat translates addresses, and this kernel cannot be asked"},
		"NAT, old kernel, no path":   {found: rules, slow: true},
		"IPVS":                       {found: nat.Found{Mode: maps.NATOther, By: "IPVS"}, conntrack: true, want: "IPVS translates addresses"},
		"IPVS, no path":              {found: nat.Found{Mode: maps.NATOther, By: "IPVS"}, slow: true},
		"rules that cannot be read":  {found: rules, err: errors.New("read rules: no"), conntrack: true, want: "read rules: no; taken as if"},
		"nobody cares for the rules": {found: rules, err: errors.New("read rules: no"), slow: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := &natWatch{session: &session{node: &node{Options: Options{FastPath: !test.slow}}}, conntrack: test.conntrack}
			err := w.shortfall(test.found, test.err)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("told: %v", err)
			case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), test.want)):
				t.Errorf("told: %v, want %q", err, test.want)
			}
		})
	}
}
