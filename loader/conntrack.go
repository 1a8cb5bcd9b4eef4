// SPDX-License-Identifier: Apache-2.0

package loader

import "github.com/cilium/ebpf/btf"

// conntrack reports whether programs can ask the kernel about connections: from
// 5.18 on, where it has BTF, and conntrack built in or its module loaded.
func conntrack(types *btf.Cache) bool {
	kernel, err := types.Kernel()
	if err != nil {
		return false
	}
	const function = "bpf_skb_ct_lookup" // net/netfilter/nf_conntrack_bpf.c
	var f *btf.Func
	if kernel.TypeByName(function, &f) == nil {
		return true
	}
	module, err := types.Module("nf_conntrack")
	return err == nil && module.TypeByName(function, &f) == nil
}
