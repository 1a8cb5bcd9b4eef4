// SPDX-License-Identifier: Apache-2.0

//go:build root && !vm

package netlink

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// A kernel without the device says so; a peer that needs another device than the
// network does not keep the others from being served. (The virtual machines' kernels have them all.)
func TestNoIPIPDevices(t *testing.T) {
	self4, self6 := host1v6(t, topology.EncapIPIP)
	for want, s := range map[string]topology.Self{"create bpfnet-ipip: this kernel has no ipip": self4, "create bpfnet-ip6: this kernel has no ip6tnl": self6} {
		want += " device: load its module, or choose another backend type, or the dataplane ebpf, which needs none: operation not supported"
		if _, err := EnsureOverlay(s, Kernel); err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
	}
	self6.Other = self4.Node
	p := peer6(2, topology.EncapIPIP, self6.Uplink)
	p.Node = peer(2, topology.EncapIPIP, self6.Uplink).Node
	problems, err := new(View).Apply(topology.State{Self: self6, Peers: []topology.Peer{p}}, Device{Ifindex: 1, Name: IP6Name})
	if err != nil {
		t.Fatal(err)
	}
	want := []topology.Problem{{Key: p.Key, Text: "node 192.168.32.246 has an address of the other family alone: create bpfnet-sit: " +
		"this kernel has no sit device: load its module, or choose another backend type, or the dataplane ebpf, which needs none: operation not supported"}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
