// SPDX-License-Identifier: Apache-2.0

//go:build root

package packet

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/bpf"
)

// unreachable are the reasons no test run produces, and why.
var unreachable = map[string]string{
	"PASS_SCATTERED":   "a test run has 3,500 bytes in the first buffer",
	"DROP_ENCAPSULATE": "bpf_skb_adjust_room refuses superpackets, which are passed, and what there is no memory for",
	"DROP_REDIRECT":    "the redirect helpers only note where to; they refuse flags, which are constants here",
}

// reasons are the names of enum reason by number, from the object's BTF.
var reasons = sync.OnceValues(func() (map[bpf.DatapathReason]string, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("reason", &enum); err != nil {
		return nil, fmt.Errorf("find enum reason: %w", err)
	}
	names := map[bpf.DatapathReason]string{}
	for _, v := range enum.Values {
		names[bpf.DatapathReason(v.Value)] = v.Name
	}
	return names, nil
})

func name(reason bpf.DatapathReason) string {
	names, err := reasons()
	if err != nil || names[reason] == "" {
		return fmt.Sprintf("reason %d", reason)
	}
	return names[reason]
}

// TestEveryReason: a reason that is new in reasons.h needs a packet here.
func TestEveryReason(t *testing.T) {
	names, err := reasons()
	must(t, err)
	want := slices.Sorted(maps.Values(names))
	want = slices.DeleteFunc(want, func(n string) bool { return n == "REASON_MAX" })
	got := append(slices.Collect(maps.Keys(unreachable)), name(bpf.DatapathReasonPASS_LINK_SCOPE)) // of TestIPv6LinkScope
	for _, cases := range tables() {
		for _, c := range cases {
			got = append(got, name(c.reason))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("reasons without a packet (-), or unknown (+):\n%s", diff)
	}
	for n := range unreachable {
		for _, cases := range tables() {
			if slices.ContainsFunc(cases, func(c packetCase) bool { return name(c.reason) == n }) {
				t.Errorf("%s is listed as unreachable, but a packet has it", n)
			}
		}
	}
}

// TestVerdictsFollowNames: a reason's verdict is its name up to the underscore.
func TestVerdictsFollowNames(t *testing.T) {
	prefixes := map[int32]string{actRedirect: "FORWARD_", actNext: "PASS_", actShot: "DROP_"}
	names, err := reasons()
	must(t, err)
	for reason, n := range names {
		prefix := prefixes[action(reason)]
		if n != "REASON_MAX" && (len(n) < len(prefix) || n[:len(prefix)] != prefix) {
			t.Errorf("%s (%d) stands among the %s reasons", n, reason, prefix)
		}
	}
}
