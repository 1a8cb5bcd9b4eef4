// SPDX-License-Identifier: Apache-2.0

// Package flood measures what it takes a machine to get rid of forged tunnel
// packets: VXLAN, over either IP version, that no node of the network has sent.
//
// A veth stands for the NIC. Frames that never were skbs come in by it
// (BPF_F_TEST_XDP_LIVE_FRAMES of the kernel's bpf_prog_run.rst), as from a
// NIC's ring: its NAPI hands them to a program in native mode as they are, or
// makes skbs of them, which go through GRO and up to who drops them. NAPI has a
// thread of its own, on the last CPU; the sender is on the first one. What is
// reported is that thread's CPU time for each packet, whatever of them the
// sender lost in front of a full ring:
//
//	for round in 1 2 3 4 5; do go test -run - -bench . -benchtime 300000x -tags root ./test/bench/flood; done
//
// Rounds, because a virtual machine's CPUs are now faster, now slower: compare
// within one, or medians over several.
//
// It wants root, two CPUs, Linux 6.6 (tcx), nft, and to see the kernel's threads:
// not .ci/sandbox.
package flood
