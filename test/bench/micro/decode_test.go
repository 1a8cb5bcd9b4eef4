// SPDX-License-Identifier: Apache-2.0

package micro

import (
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// BenchmarkDecode is one lease of etcd, key and value.
func BenchmarkDecode(b *testing.B) {
	l := store.Lease{PublicIP: nodeAddr(1), Backend: topology.EncapVXLAN, VNI: vni, MAC: vtepMAC(1), Subnet: subnetOf(1)}
	value, err := l.Value()
	if err != nil {
		b.Fatal(err)
	}
	key := peer(1).Key
	b.ReportAllocs()
	for b.Loop() {
		if _, err := store.ParseLease(key, value); err != nil {
			b.Fatal(err)
		}
	}
}
