// SPDX-License-Identifier: Apache-2.0

package dump

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/maps"
)

type host struct {
	Host uint32     `json:"host"`
	Self bool       `json:"self"`
	Node netip.Addr `json:"node"`
	path
}

// template is what many hosts have in common.
type template struct {
	Template uint32 `json:"template"`
	path
}

// path is how to send to a node.
type path struct {
	NextHop   netip.Addr `json:"next_hop"`
	Ifindex   uint32     `json:"ifindex"`
	MTU       uint16     `json:"mtu"`
	Encap     string     `json:"encapsulation"`
	Flags     []string   `json:"flags"`
	Adjust    []string   `json:"adjust_room_flags"`
	Header    *header    `json:"header"` // null where packets go as they are
	HeaderHex string     `json:"header_hex"`
}

// encaps are the names that the store's BackendType has.
var encaps = map[bpf.DatapathEncap]string{
	bpf.DatapathEncapENCAP_NONE:  "host-gw",
	bpf.DatapathEncapENCAP_VXLAN: "vxlan",
	bpf.DatapathEncapENCAP_IPIP:  "ipip",
	bpf.DatapathEncapENCAP_UDP:   "udp",
}

// bitName is a bit and its name.
type bitName struct {
	bit  uint64
	name string
}

var hostFlags = []bitName{
	{uint64(bpf.DatapathHostFlagsHOST_SOURCE_PORT), "source_port"},
	{uint64(bpf.DatapathHostFlagsHOST_INHERIT_TTL), "inherit_ttl"},
	{uint64(bpf.DatapathHostFlagsHOST_INHERIT_DF), "inherit_df"},
	{uint64(bpf.DatapathHostFlagsHOST_FLOW_LABEL), "flow_label"},
	{uint64(bpf.DatapathHostFlagsHOST_ETHERNET), "ethernet"},
	{uint64(bpf.DatapathHostFlagsHOST_CHECKSUM), "checksum"},
	{uint64(bpf.DatapathHostFlagsHOST_IPV6), "ipv6"},
}

// include/uapi/linux/bpf.h, BPF_F_ADJ_ROOM_*. The top byte is the length of the inner Ethernet header.
var adjustFlags = []bitName{
	{unix.BPF_F_ADJ_ROOM_FIXED_GSO, "fixed_gso"},
	{unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, "encap_l3_ipv4"},
	{unix.BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, "encap_l3_ipv6"},
	{unix.BPF_F_ADJ_ROOM_ENCAP_L4_GRE, "encap_l4_gre"},
	{unix.BPF_F_ADJ_ROOM_ENCAP_L4_UDP, "encap_l4_udp"},
	{unix.BPF_F_ADJ_ROOM_NO_CSUM_RESET, "no_csum_reset"},
	{unix.BPF_F_ADJ_ROOM_ENCAP_L2_ETH, "encap_l2_eth"},
}

const encapL2Shift = unix.BPF_ADJ_ROOM_ENCAP_L2_SHIFT

// words are the names of the bits that are set, those without a name as a number.
func words(bits uint64, flags []bitName) []string {
	set := []string{}
	for _, f := range flags {
		if bits&f.bit != 0 {
			set = append(set, f.name)
			bits &^= f.bit
		}
	}
	if bits != 0 {
		set = append(set, fmt.Sprintf("%#x", bits))
	}
	return set
}

func adjustWords(adjust uint64) []string {
	const lengthMask = unix.BPF_ADJ_ROOM_ENCAP_L2_MASK << encapL2Shift
	set := words(adjust&^lengthMask, adjustFlags)
	if length := adjust >> encapL2Shift; length != 0 {
		set = append(set, fmt.Sprintf("encap_l2_%d", length))
	}
	return set
}

func newHost(index uint32, h maps.Host) host {
	return host{index, index == uint32(bpf.DatapathHostIndexHOST_SELF), h.Node, newPath(h)}
}

func newPath(h maps.Host) path {
	raw := h.Header[:h.HeaderLen]
	p := path{
		NextHop: h.NextHop, Ifindex: h.Ifindex, MTU: h.MTU,
		Encap:     encaps[h.Encap],
		Flags:     words(uint64(h.Flags), hostFlags),
		Adjust:    adjustWords(h.Adjust),
		HeaderHex: hex.EncodeToString(raw),
	}
	if len(raw) > 0 {
		p.Header = decodeHeader(h.Encap, raw)
	}
	return p
}

func (h host) rows() [][]string {
	encap := h.Encap
	if h.Self {
		encap = "this node"
	}
	return h.path.rows([]string{number(h.Host), h.Node.String()}, addrText(h.NextHop), encap)
}

func (t template) rows() [][]string {
	next := "the node"
	if t.NextHop.IsValid() {
		next = t.NextHop.String()
	}
	return t.path.rows([]string{number(t.Template)}, next, t.Encap)
}

// rows are the cells that come first, those of the path, and its header.
func (p path) rows(first []string, next, encap string) [][]string {
	flags := strings.Join(p.Flags, " ")
	if flags == "" {
		flags = "-"
	}
	rows := [][]string{append(first, next, number(p.Ifindex), number(p.MTU), encap, flags)}
	if p.HeaderHex != "" {
		rows = append(rows, []string{p.headerWords()})
	}
	return rows
}

// headerWords is the header in words, or as it is where it cannot be read.
func (p path) headerWords() string {
	if p.Header == nil {
		return "header " + grouped(p.HeaderHex)
	}
	return p.Header.words(p.Flags)
}

func readHosts(set *maps.Set) ([]record, error) {
	entries, err := set.Hosts.Entries()
	return recordsOf(entries, err, newHost)
}

func readTemplates(set *maps.Set) ([]record, error) {
	entries, err := set.Templates.Entries()
	return recordsOf(entries, err, func(number uint32, h maps.Host) template { return template{number, newPath(h)} })
}
