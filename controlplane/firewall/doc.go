// SPDX-License-Identifier: Apache-2.0

// Package firewall keeps the host's packet filter from standing in the overlay's
// way, and hides container addresses where the overlay ends: what flanneld's
// --ip-masq and --iptables-forward-rules do (flannel's pkg/trafficmngr). It
// concerns the kernel's path only: what the fast path redirects passes by all of it.
//
// # Masquerading
//
// One nftables table of our own, `table ip bpfnet` or `table ip6 bpfnet`, written over netlink, so that
// it needs no command and is changed in one transaction. In order, for a network
// N and this node's subnet S of it:
//
//	mark 0x4000                  left to kube-proxy, which masquerades it itself
//	from S to S                  left to others: hairpin rules of Docker and CNI's portmap
//	from N to N                  keeps its source
//	from elsewhere to S          left to others: the client's address is kept unless they say otherwise
//	from N, not to multicast     masqueraded
//	from elsewhere to N          masqueraded: the answer has to come back by this node
//
// A container reaching a host by its underlay address leaves the overlay, and is
// masqueraded, as with flannel.
//
// It differs from flannel's rules in this:
//
//   - Inside the overlay the source is not only left alone but held. A connection's
//     source NAT is settled by the first chain that settles anything
//     (nf_nat_inet_fn in net/netfilter/nf_nat_core.c), so a rule that merely returns
//     leaves the packet to the next one: to Docker's `-s BIP ! -o docker0 -j
//     MASQUERADE`, or to rules flanneld left behind for an earlier subnet. Here it
//     is translated to its own source address, which is what the kernel does itself
//     at the end if no rule has settled anything (nf_nat_alloc_null_binding): same ports,
//     same cost. So Docker may masquerade too (it does unless told --ip-masq=false).
//   - The chain hooks in at priority 90, before iptables' and other tables' 100, and
//     so does not depend on who came first. flannel's rules stand behind Docker's.
//   - Everything between two addresses of N counts as inside. flannel masquerades
//     what this node forwards between two other nodes' subnets.
//   - Only bit 0x4000 of the mark is looked at, as in flannel's iptables rules; its nftables
//     rules compare the whole mark, which Kubernetes shares with others.
//
// A dual-stack node has the rules once for each of its networks. That IPv6 is
// masqueraded too is what --ip-masq says to flannel; containers with addresses that
// the world routes are better off without.
//
// # Forwarding
//
// Docker sets the policy of iptables' FORWARD chain, and of ip6tables' where it serves IPv6, to DROP. An accept elsewhere
// does not undo that: every chain of a hook may drop, and an accept only ends
// its own. So the rules go where the policy is, by the iptables command, in a
// chain of their own: BPFNET-FORWARD accepts what comes from or goes to N.
//
// FORWARD jumps there from its end, as flannel's does, because the rules stand in for
// a policy: what an administrator put into DOCKER-USER, what a network policy or
// Docker's --icc=false drops stays dropped, and nobody has to fight for the first
// place. A REJECT or DROP of everything at the end of FORWARD is a policy in
// another form: the jump goes in front of it.
//
// iptables exists twice, on nftables and on the kernel's older tables, and both may
// filter. The rules go to the one that `iptables` is, beforehand, for Docker is
// usually started after us; and to the other if its filter table is there. Without any
// iptables command there is nothing to do, or if such a table is there all
// the same (a container with the host's network), an error.
//
// What drops elsewhere, or on purpose, cannot be accepted from here: firewalld, ufw's REJECT of
// forwarded packets, nftables chains with a policy of drop, and Docker from 28 on, which drops
// in its raw table and its DOCKER chain what reaches a container by another interface than its
// bridge (moby issue 49792; its options allow-direct-routing and
// com.docker.network.bridge.trusted_host_interfaces, from 28.2, are for that).
// They have to be told about the network.
//
// # Keeping
//
// Ensure reads, compares, and writes only what differs; calling it every few
// seconds repairs what others removed. It holds no state, so what a daemon with
// another network or subnet left is replaced too. Remove takes away all of it but the
// empty filter table that iptables may have made to hold the chain.
package firewall
