// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/test/lab"
)

// carrier reads how many packets, both ways, a host has carried by the means of a mode.
type carrier func(*lab.Host) (uint64, error)

// device counts the packets of a network device.
func device(name string) carrier {
	return func(h *lab.Host) (n uint64, err error) {
		err = h.NS.Do(func() error {
			l, failed := netlink.LinkByName(name)
			if failed != nil {
				return failed
			}
			s := l.Attrs().Statistics
			if s == nil {
				return errors.New("the kernel tells no statistics")
			}
			n = s.RxPackets + s.TxPackets
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("read counters of %s on %s: %w", name, h.Name, err)
		}
		return n, nil
	}
}

// programs counts the packets that the host's BPF programs have sent on.
func programs(h *lab.Host) (uint64, error) {
	counters, err := h.Counters()
	if err != nil {
		return 0, err
	}
	var n uint64
	for key, packets := range counters {
		if key.Verdict == "forward" {
			n += packets
		}
	}
	return n, nil
}

// forwarding counts the packets that the host's kernel has forwarded
// (RFC 4293, ipSystemStatsOutForwDatagrams and its like).
func forwarding(h *lab.Host) (n uint64, err error) {
	var snmp []byte
	err = h.NS.Do(func() (err error) {
		// Not /proc/self: that is the namespace of the process, this one is the thread's.
		snmp, err = os.ReadFile("/proc/thread-self/net/snmp")
		return err
	})
	if err == nil {
		n, err = parseForwarded(snmp)
	}
	if err != nil {
		return 0, fmt.Errorf("read packets forwarded by %s: %w", h.Name, err)
	}
	return n, nil
}

// parseForwarded reads ForwDatagrams from /proc/net/snmp: a line of names, then
// one of values, each beginning with "Ip:".
func parseForwarded(snmp []byte) (uint64, error) {
	var names []string
	for line := range bytes.Lines(snmp) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 || fields[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "ForwDatagrams" && i < len(fields) {
				return strconv.ParseUint(fields[i], 10, 64)
			}
		}
	}
	return 0, errors.New("malformed /proc/net/snmp: no ForwDatagrams")
}
