// SPDX-License-Identifier: Apache-2.0

// Package maps is a typed view of the datapath's maps: net/netip values in,
// the bytes of bpf/include/types.h out, and back.
//
//	map             kind           key -> value                       writer         size
//	routes          LPM trie       network, prefix -> host index      control plane  --max-routes
//	route_index     array          slot -> host, its own, template    control plane  the network's subnets
//	hosts           array          host index -> host                 control plane  --max-hosts
//	templates       array          number -> what hosts share         control plane  fixed
//	nodes           hash           underlay address -> host index     control plane  --max-hosts
//	neigh           hash           network, address -> MAC            control plane  --max-neighbours
//	fdb             hash           VNI, MAC -> host index             control plane  --max-neighbours
//	endpoints       hash           network, address -> veth, MACs     control plane  --max-endpoints
//	endpoint_index  array          slot -> address, veth, MACs        control plane  fixed
//	nat             array          whether this node translates       control plane  1
//	counters        per-CPU array  program, reason -> packets, bytes  programs       fixed
//	events          ring buffer    sampled drops                      programs       fixed
//	settings        array          what was fixed at load             loader         1
//
// [Routes] shows routes and the route_index in front of it as one table; [Endpoints]
// has all containers, and keeps the endpoint_index in front of it.
//
// An entry that does not decode is somebody else's writing or damage. All
// leaves it out, Entries tells of it; it never keeps the others from being
// read.
package maps
