// SPDX-License-Identifier: Apache-2.0

// Package micro measures the parts of bpfnet by themselves:
//
//	go test -run - -bench . ./test/bench/micro                 what needs no root
//	go test -run - -bench . -tags root ./test/bench/micro      the BPF programs and their maps too
//
// (topology.Build has its benchmark in its own package.) What the parts come to
// together, in packets and in etcd's events, is measured by bpfnet bench.
package micro
