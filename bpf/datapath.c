// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/* The datapath in one object, so that its programs share their maps. */
#include "from_container.c"
#include "from_host.c"
#include "from_network.c"
#include "from_overlay.c"
#include "from_veth.c"
#include "from_wire.c"

char _license[] SEC("license") = "Dual BSD/GPL";
