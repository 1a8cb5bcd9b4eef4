// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestKernelPeer has bpfnet on h1 alone. h2 is set up by hand, with the kernel's
// own devices and a record in etcd, as a flannel node is (SCENARIOS A; topology
// as TestOverlay). Both have to understand each other, and to put the same on
// the wire.
func TestKernelPeer(t *testing.T) {
	for _, test := range []struct {
		name     string
		backend  topology.Encap
		vxlan    string // option of h2's device
		checksum bool   // of the outer UDP header, from h2
	}{
		{"vxlan", topology.EncapVXLAN, "noudpcsum", false},
		{"vxlan with checksums", topology.EncapVXLAN, "udpcsum", true},
		{"host-gw", topology.EncapNone, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := up(t, func(o *lab.Options) { o.Backend = test.backend })
			h1, h2 := l.Hosts[0], l.Hosts[1]
			noError(t, h1.StartDaemon(t.Context()))
			joinByHand(t, l, h1, h2, test.vxlan)
			waitPeers(t, h1, 1)
			learn(t, h1)
			from, to := h1.Containers[0], h2.Containers[0]
			setChecksumOffload(t, h2, lab.Uplink, !test.checksum) // for the capture to hold all of them
			request, reply := pingOnWire(t, l, from.NS, to.Addr, "-Q", "0x02")
			in := inner{src: from.Addr, dst: to.Addr, icmp: "EchoRequest", ttl: 63, tos: 2, df: true, length: 84}
			equal(t, "request by bpfnet", wireLines(t, l, h1, h2, in, 2), describe(request))
			in.src, in.dst, in.icmp, in.df = to.Addr, from.Addr, "EchoReply", false
			want := wireLines(t, l, h2, h1, in, 2)
			if test.checksum {
				want[3] = udpLine("dynamic", 8472, 114, true)
			}
			equal(t, "reply by the kernel", want, describe(reply))
			ping(t, to.NS, from.Addr, lab.PingOptions{Count: 5, Interval: time.Millisecond})
			setChecksumOffload(t, h2, lab.Uplink, true)
			noError(t, lab.TransferTCP(t.Context(), from.NS, to.NS, to.Addr, 4<<20))
			noError(t, lab.TransferTCP(t.Context(), to.NS, from.NS, from.Addr, 4<<20))
			sendDatagrams(t, to.NS, from.NS, from.Addr, 1, 1000, 4000, 65507)
		})
	}
}

// joinByHand makes a host a node by ip, bridge and etcdctl, so to say.
func joinByHand(t *testing.T, l *lab.Lab, h1, h *lab.Host, option string) {
	t.Helper()
	run(t, h.NS, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
	record := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}`, h.Addr)
	if option == "" {
		run(t, h.NS, "ip", "route", "add", h1.Subnet.String(), "via", h1.Addr.String(), "dev", lab.Uplink, "onlink")
	} else {
		vtep, gateway := mac(t, h1, "bpfnet0").String(), h1.Subnet.Addr().String()
		for _, command := range [][]string{
			// srcport as the kernel's own range is wider than RFC 7348's
			{"ip", "link", "add", "bpfnet0", "mtu", "1450", "type", "vxlan", "id", "1", "dstport", "8472", "local", h.Addr.String(),
				"dev", lab.Uplink, "nolearning", option, "srcport", "49152", "65535"},
			{"ip", "address", "add", h.Subnet.Addr().String() + "/32", "dev", "bpfnet0"},
			{"ip", "link", "set", "bpfnet0", "up"},
			{"bridge", "fdb", "add", vtep, "dev", "bpfnet0", "dst", h1.Addr.String()},
			{"ip", "neigh", "add", gateway, "lladdr", vtep, "dev", "bpfnet0", "nud", "permanent"},
			{"ip", "route", "add", h1.Subnet.String(), "via", gateway, "dev", "bpfnet0", "onlink"},
		} {
			run(t, h.NS, command...)
		}
		record = fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}`,
			h.Addr, mac(t, h, "bpfnet0"))
	}
	_, err := etcd(t, l).Put(t.Context(), "/coreos.com/network/subnets/172.246.0.0-24", record)
	noError(t, err)
}
