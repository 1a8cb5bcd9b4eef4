// SPDX-License-Identifier: Apache-2.0

//go:build root

package micro

import (
	"fmt"
	"testing"

	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
)

// BenchmarkReconcile is the way from the desired state into the maps: of a whole
// cluster, of one that is there already (a daemon that starts again), and of one
// peer that changes.
func BenchmarkReconcile(b *testing.B) {
	for _, size := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("first/peers=%d", size), func(b *testing.B) { benchmarkFirst(b, size) })
		b.Run(fmt.Sprintf("again/peers=%d", size), func(b *testing.B) { benchmarkAgain(b, size) })
		b.Run(fmt.Sprintf("change/peers=%d", size), func(b *testing.B) { benchmarkChange(b, size) })
	}
}

func benchmarkFirst(b *testing.B, size int) {
	s := state(size)
	for b.Loop() {
		b.StopTimer()
		d, err := newDatapath(size)
		b.StartTimer()
		if err == nil {
			var dp *dataplane.Dataplane
			if dp, err = dataplane.New(d.set, 0, vni); err == nil {
				err = dp.Apply(s)
			}
		}
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		d.programs.Close()
		b.StartTimer()
	}
}

func benchmarkAgain(b *testing.B, size int) {
	d, s := filled(b, size), state(size)
	for b.Loop() {
		dp, err := dataplane.New(d.set, 0, vni)
		if err == nil {
			err = dp.Apply(s)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkChange(b *testing.B, size int) {
	s := state(size)
	dp, err := dataplane.New(filled(b, size).set, 0, vni)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Peers[0].Path.MTU ^= 64
		if err := dp.Apply(s); err != nil {
			b.Fatal(err)
		}
	}
	if s.Peers[0].Path.MTU != 1500 { // as the next benchmark expects it
		s.Peers[0].Path.MTU = 1500
		if err := dp.Apply(s); err != nil {
			b.Fatal(err)
		}
	}
}
