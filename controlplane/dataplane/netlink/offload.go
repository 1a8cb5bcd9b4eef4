// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"fmt"

	"github.com/bpfnet/bpfnet/controlplane/ethtool"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// checksums are the features of a veth by which a packet leaves it with its
// transport checksum still to be filled in. Without them the kernel fills it in,
// and with that cuts superpackets into segments (harmonize_features of
// net/core/dev.c).
var checksums = []string{"tx-checksum-ip-generic", "tx-checksum-sctp"}

// segmented are those by which superpackets stay whole that bpf_skb_adjust_room does not encapsulate: what is in a
// tunnel already, and SCTP.
var segmented = []string{
	"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gre-segmentation", "tx-gre-csum-segmentation",
	"tx-ipxip4-segmentation", "tx-ipxip6-segmentation", "tx-sctp-segmentation",
}

// wantOffloads are those of the programs' veth: for a receiver that may be a process none that it would have to
// finish (bpf/from_veth.c), else all that a program can encapsulate.
func wantOffloads(encap topology.Encap) map[string]bool {
	want := map[string]bool{}
	for _, name := range checksums {
		want[name] = encap != topology.EncapUDP
	}
	for _, name := range segmented {
		want[name] = false
	}
	return want
}

// ensureOffloads is `ethtool -K DEVICE FEATURE on|off …` of the features that the device has, and writes
// only what differs.
func ensureOffloads(device string, want map[string]bool) error {
	has, err := ethtool.Features(device)
	if err != nil {
		return fmt.Errorf("get offloads of %s: %w", device, err)
	}
	change := map[string]bool{}
	for name, on := range want {
		if now, known := has[name]; known && now != on {
			change[name] = on
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := ethtool.Change(device, change); err != nil {
		return fmt.Errorf("set offloads of %s to %v: %w", device, change, err)
	}
	return nil
}
