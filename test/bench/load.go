// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"maps"
	"time"

	"github.com/bpfnet/bpfnet/test/bench/traffic"
)

// Load is one thing to measure.
type Load struct {
	Name    string // as --loads and the JSON have it
	Title   string
	Spec    traffic.Spec
	Unit    unit
	OneCore bool            // both ends on one core
	Uplink  map[string]bool // features of both uplinks, by the kernel's names, while it runs
	Wire    map[string]bool // likewise of the wire's end of each
}

// unit is what a load's rate counts.
type unit struct {
	Name      string // "1/s" or "bit/s"
	Each      string // what cpu_ns is the CPU time of
	delivered bool   // counted where it arrives; else where the answer does
	count     func(traffic.Count) float64
	each      float64 // of count's, in one of Each
}

const superpacket = 64 << 10 // bytes: about what the stack hands down at once

var (
	bits = unit{
		Name: "bit/s", Each: "64 KiB", delivered: true,
		count: func(c traffic.Count) float64 { return 8 * float64(c.Bytes) }, each: 8 * superpacket,
	}
	packets      = unit{Name: "1/s", Each: "packet", delivered: true, count: operations, each: 1}
	transactions = unit{Name: "1/s", Each: "transaction", count: operations, each: 1}
	connections  = unit{Name: "1/s", Each: "connection", count: operations, each: 1}
)

func operations(c traffic.Count) float64 { return float64(c.Ops) }

// rate is what a load did a second.
func (u unit) rate(c traffic.Count) float64 { return u.count(c) / c.At.Seconds() }

// cpu is the CPU time that each took.
func (u unit) cpu(busy time.Duration, c traffic.Count) float64 {
	return float64(busy.Nanoseconds()) / (u.count(c) / u.each)
}

const write = 128 << 10 // bytes, of a write to a stream

// Features of a NIC, by the kernel's names (net/ethtool/common.c).
var (
	segmentation = []string{
		"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation",
		"tx-tcp-accecn-segmentation", "tx-generic-segmentation",
	}
	gro = "rx-gro"
)

// segments has the kernel cut TCP's superpackets before they leave a host, with or
// without GRO to put them together again on the next. The wire's ends have no TSO
// either: a veth does not receive by NAPI, and so merges nothing, what comes from one
// that has it (veth_skb_is_eligible_for_gro() in drivers/net/veth.c).
func segments(l Load, withGRO bool) Load {
	l.Wire = map[string]bool{}
	for _, name := range segmentation {
		l.Wire[name] = false
	}
	l.Uplink = maps.Clone(l.Wire)
	l.Uplink[gro] = withGRO
	return l
}

// The loads. Where two ends take turns they share a core: on two, most of what is
// measured would be the waking of one that idles, which in a virtual machine
// takes many times as long as the packet.
var loads = []Load{
	{
		Name: "tcp_stream", Title: "TCP stream", Unit: bits,
		Spec: traffic.Spec{Kind: traffic.TCPStream, Flows: 1, Size: write},
	},
	{
		Name: "tcp_stream_1core", Title: "TCP stream, both ends on one core", Unit: bits, OneCore: true,
		Spec: traffic.Spec{Kind: traffic.TCPStream, Flows: 1, Size: write},
	},
	{
		Name: "tcp_stream_8", Title: "TCP stream, 8 flows", Unit: bits,
		Spec: traffic.Spec{Kind: traffic.TCPStream, Flows: 8, Size: write},
	},
	segments(Load{
		Name: "tcp_stream_notso", Title: "TCP stream, uplinks without TSO, GSO and GRO", Unit: bits,
		Spec: traffic.Spec{Kind: traffic.TCPStream, Flows: 1, Size: write},
	}, false),
	segments(Load{
		Name: "tcp_stream_notso_gro", Title: "TCP stream, uplinks without TSO and GSO, with GRO", Unit: bits,
		Spec: traffic.Spec{Kind: traffic.TCPStream, Flows: 1, Size: write},
	}, true),
	{
		Name: "tcp_rr", Title: "TCP request and answer, 1 byte each", Unit: transactions, OneCore: true,
		Spec: traffic.Spec{Kind: traffic.TCPRR, Flows: 1, Size: 1},
	},
	{
		Name: "tcp_crr", Title: "TCP connect, request, answer, close", Unit: connections, OneCore: true,
		Spec: traffic.Spec{Kind: traffic.TCPCRR, Flows: 1, Size: 1},
	},
	{
		Name: "udp_rr", Title: "UDP request and answer, 1 byte each", Unit: transactions, OneCore: true,
		Spec: traffic.Spec{Kind: traffic.UDPRR, Flows: 1, Size: 1},
	},
	{
		Name: "udp_rr_32", Title: "UDP request and answer, 32 flows", Unit: transactions, OneCore: true,
		Spec: traffic.Spec{Kind: traffic.UDPRR, Flows: 32, Size: 1},
	},
	{
		Name: "udp_64", Title: "UDP datagrams of 64 bytes", Unit: packets,
		Spec: traffic.Spec{Kind: traffic.UDPFlood, Flows: 1, Size: 64},
	},
	{
		Name: "udp_1400", Title: "UDP datagrams of 1400 bytes", Unit: packets,
		Spec: traffic.Spec{Kind: traffic.UDPFlood, Flows: 1, Size: 1400},
	},
}

// Loads are all loads.
func Loads() []Load { return loads }

// LoadsNamed are the loads of those names, in the order of Loads; no name
// stands for all.
func LoadsNamed(names []string) ([]Load, error) {
	return named("load", loads, func(l Load) string { return l.Name }, names)
}
