// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"fmt"

	"github.com/safchain/ethtool"
)

// checksums are the features of a veth by which a packet leaves it with its
// transport checksum still to be filled in. Without them the kernel fills it in,
// and with that cuts superpackets into segments (harmonize_features of
// net/core/dev.c).
var checksums = []string{"tx-checksum-ip-generic", "tx-checksum-sctp"}

// ensureOffloads is `ethtool -K DEVICE tx on|off`, and writes only what differs.
func ensureOffloads(device string, on bool) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open socket to set offloads of %s: %w", device, err)
	}
	defer e.Close()
	has, err := e.Features(device)
	if err != nil {
		return fmt.Errorf("get offloads of %s: %w", device, err)
	}
	change := map[string]bool{}
	for _, name := range checksums {
		if has[name] != on {
			change[name] = on
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := e.Change(device, change); err != nil {
		return fmt.Errorf("set offloads of %s to %v: %w", device, change, err)
	}
	return nil
}
