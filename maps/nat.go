// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/bpfnet/bpfnet/bpf"
)

// NATMode says which packets the programs leave to the kernel because it may
// have to translate their addresses.
type NATMode uint32

// The modes.
const (
	NATNone      = NATMode(bpf.DatapathNatModeNAT_NONE)      // none for that
	NATConntrack = NATMode(bpf.DatapathNatModeNAT_CONNTRACK) // what conntrack knows to be translated, or cannot tell
	NATOther     = NATMode(bpf.DatapathNatModeNAT_OTHER)     // all
)

func (m NATMode) String() string {
	switch m {
	case NATNone:
		return "none"
	case NATConntrack:
		return "conntrack"
	case NATOther:
		return "other"
	}
	return fmt.Sprintf("mode %d", uint32(m))
}

// NAT holds the mode.
type NAT struct{ m *ebpf.Map }

// Get is the mode.
func (n *NAT) Get() (mode NATMode, err error) {
	if err = n.m.Lookup(uint32(0), &mode); err != nil {
		return 0, fmt.Errorf("read map nat: %w", err)
	}
	return mode, nil
}

// Set changes it, for the next packet.
func (n *NAT) Set(mode NATMode) error {
	if err := n.m.Put(uint32(0), mode); err != nil {
		return fmt.Errorf("set map nat to %s: %w", mode, err)
	}
	return nil
}
