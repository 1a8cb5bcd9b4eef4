// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/bpfnet/bpfnet/test/lab"
)

// reportedSysctls change what packets cost.
var reportedSysctls = []string{
	"kernel/bpf_stats_enabled", "net/bridge/bridge-nf-call-iptables", "net/core/bpf_jit_enable", "net/core/bpf_jit_harden",
	"net/core/default_qdisc", "net/core/netdev_max_backlog", "net/core/rps_sock_flow_entries", "net/ipv4/ip_early_demux",
	"net/ipv4/tcp_congestion_control",
}

// wireSysctls make the bridge between the hosts a wire: what filters it would
// meet are nothing that hosts pay.
var wireSysctls = map[string]string{
	"net/bridge/bridge-nf-call-arptables": "0", "net/bridge/bridge-nf-call-ip6tables": "0", "net/bridge/bridge-nf-call-iptables": "0",
}

// endSysctls: a stream is to be bounded by what packets cost, not by the pace
// that BBR finds right. Reno is what every kernel has and any namespace may choose.
var endSysctls = map[string]string{"net/ipv4/tcp_congestion_control": "reno"}

// neighbourSysctls keep neighbours confirmed on a link, once they are. Of datagrams and tunnels the kernel
// has no confirmation but by asking again, and meanwhile (NUD_DELAY) it builds each Ethernet header anew:
// five seconds of every half minute, in each mode at a time of its own.
func neighbourSysctls(link string) map[string]string {
	return map[string]string{
		"net/ipv4/neigh/" + link + "/base_reachable_time_ms": "3600000",
		"net/ipv4/neigh/" + link + "/delay_first_probe_time": "0",
	}
}

// readSysctls reads those that the kernel has, in the calling thread's namespace.
func readSysctls() map[string]string {
	all := map[string]string{}
	for _, name := range reportedSysctls {
		if v, err := readLine(filepath.Join("/proc/sys", name)); err == nil {
			all[strings.ReplaceAll(name, "/", ".")] = v
		}
	}
	return all
}

// writeSysctls sets those that the kernel has, to values that it has.
func writeSysctls(n lab.Namespace, values map[string]string) error {
	return n.Do(func() error {
		for name, value := range values {
			err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("set %s to %s in %s: %w", name, value, n, err)
			}
		}
		return nil
	})
}

// setSysctls makes the namespaces of a site what all modes have in common.
func (s *site) setSysctls() error {
	err := writeSysctls(s.lab.Wire(), wireSysctls)
	for _, h := range s.lab.Hosts {
		err = errors.Join(err, writeSysctls(h.NS, endSysctls), writeSysctls(h.NS, neighbourSysctls(lab.Uplink)),
			writeSysctls(h.NS, neighbourSysctls(h.Bridge)))
		for _, c := range h.Containers {
			err = errors.Join(err, writeSysctls(c.NS, endSysctls), writeSysctls(c.NS, neighbourSysctls(lab.Uplink)))
		}
	}
	return err
}
