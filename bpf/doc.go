// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the datapath's C programs, compiled, and the Go types of
// its maps, both generated from the C sources. It has no logic of its own.
package bpf

//go:generate go tool bpf2go -no-global-types -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -output-stem datapath -type addr -type mac -type route_key -type route_slot -type host -type ip_key -type neighbour -type fdb_key -type endpoint -type endpoint_slot -type next_hop -type counter -type event -type program -type reason -type encap -type host_flags -type host_index -type nat_mode -type family -type settings -type bpf_cpumap_val Datapath datapath.c -- -O2 -mcpu=v3 -g -Wall -Wextra -Wcast-qual -Werror -Wno-unused-function

// Names of the programs.
const (
	FromContainer = "from_container"
	FromNetwork   = "from_network"
	FromHost      = "from_host"
	FromOverlay   = "from_overlay"
	FromVeth      = "from_veth"
	FromWire      = "from_wire"
)
