// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestSwitchUnderLoad changes the dataplane of both hosts, again and again, under
// a TCP stream and 1,000 datagrams a second the other way: every byte arrives as
// it was sent, and every datagram.
//
//	as in TestRestart
func TestSwitchUnderLoad(t *testing.T) {
	for _, test := range []struct {
		name    string
		backend topology.Encap
		args    []string
	}{
		{"vxlan", topology.EncapVXLAN, nil},
		{"vxlan without fast path", topology.EncapVXLAN, []string{"--fast-path=false"}},
		{"udp", topology.EncapUDP, nil},
		{"host-gw", topology.EncapNone, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := upAlone(t, func(o *lab.Options) { o.Backend = test.backend })
			startDaemons(t, l, test.args...)
			h1, h2 := l.Hosts[0], l.Hosts[1]
			for _, h := range l.Hosts {
				for _, c := range h.Containers {
					ping(t, c.NS, h.Addr, lab.PingOptions{Count: 1})
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*timeout)
			defer cancel()
			stream := inBackground(func() error {
				from, to := h1.Containers[0], h2.Containers[0]
				return lab.TransferTCP(ctx, from.NS, to.NS, to.Addr, streamSize[test.backend])
			})
			o := lab.UDPOptions{Count: 1000, Size: 100, Interval: time.Millisecond}
			arrived := 0
			datagrams := inBackground(func() (err error) {
				from, to := h2.Containers[1], h1.Containers[1]
				arrived, err = lab.TransferUDP(ctx, from.NS, to.NS, to.Addr, o)
				return err
			})
			changes := 0
			for !stream.ended() || !datagrams.ended() {
				for _, d := range []node.Dataplane{node.Netlink, node.EBPF} {
					for _, h := range l.Hosts {
						bpfnet(t, h, "dataplane", "set", string(d))
						changes++
					}
				}
			}
			stream.wait(t)
			datagrams.wait(t)
			equal(t, "datagrams that arrived", o.Count, arrived)
			t.Logf("%d changes", changes)
		})
	}
}

// streamSize is what takes a second or more, bytes.
var streamSize = map[topology.Encap]int64{topology.EncapVXLAN: 512 << 20, topology.EncapNone: 512 << 20, topology.EncapUDP: 32 << 20}
