// SPDX-License-Identifier: Apache-2.0

// Package nat finds out whether this node translates the destinations of
// connections: kube-proxy's services, Docker's published ports, an administrator's
// rules. Their answers have to take the kernel's path, which the programs see to
// once they are told (map nat).
//
// What tells:
//
//	nftables (and iptables on it)  a rule of a table with a chain of type nat that translates destinations
//	iptables-legacy, ip6tables-    its nat table, whatever is in it: asking for its rules takes its own command
//	IPVS                           a service; its connections carry no mark by which conntrack could tell them
//	conntrack                      a connection whose destination is translated, though the rule is gone since
//
// Rules that translate sources alone (masquerading) are none of these: what they
// translate to is an address of the node, not of a container, so that the answers
// come to the node's stack in any case. Redirection to the node itself is answered
// from its stack, too.
//
// Both address families are looked at, and have one answer. Prefix translation of
// IPv6 (RFC 6296; iptables' SNPT and DNPT), which keeps no connections, is not
// looked for.
//
// All of it concerns the network namespace of the calling thread.
package nat
