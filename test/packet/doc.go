// SPDX-License-Identifier: Apache-2.0

// Package packet tests the compiled programs one packet at a time, by
// BPF_PROG_TEST_RUN: from tables, by fuzzing against a plain Go model of the
// datapath's rules for both IP versions, and over millions of made-up packets
// from a printed seed (TestFuzz, make fuzz-long).
//
// The node under test is host 1 of the lab, and its peers one of each kind:
//
//	c1 172.245.0.2 ─┐                    ┌─ host 2 .246  vxlan    172.246.0.0/24
//	c2 172.245.0.3 ─┤ host 1             ├─ host 3 .247  ipip     172.247.0.0/24
//	   (veths)      │ 192.168.32.245 ────┤─ host 4 .248  udp      172.244.8.0/24
//	   bpfnet0 ─────┘  (uplink)          ├─ host 5 .249  host-gw  172.244.9.0/24
//	                                     ├─ host 6 .250  ipip, DF set, TTL 17
//	                                     └─ host 7 .251  vxlan, DF and DSCP set
//
// The world "dual" has IPv6 besides: peers of either version, with subnets of
// either behind them, by vxlan, ipip in all four pairs, and host-gw.
//
// What a test run cannot show (the neighbour lookup behind a redirect, segments
// of a superpacket) is tested on real veths, in wire_test.go and test/e2e.
//
// Everything that loads programs has the build tag root. TestMain moves the
// whole process into a network namespace of its own.
package packet
