// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Errors that tell why there is no network to join.
var (
	// ErrNoConfig is returned where etcd holds no network configuration.
	ErrNoConfig = errors.New("no network config")
	// ErrBadConfig is returned where it holds one that cannot be used.
	ErrBadConfig = errors.New("bad network config")
)

// Config is the network's configuration, checked and with its defaults filled
// in. The rules are those of flannel's pkg/subnet/config.go.
type Config struct {
	EnableIPv4 bool         // default true
	Network    netip.Prefix // all containers; the zero Prefix without IPv4
	SubnetLen  int          // prefix length of a node's subnet
	SubnetMin  netip.Addr   // the first subnet to be leased, by its first address
	SubnetMax  netip.Addr   // the last one

	// The same for IPv6.
	EnableIPv6    bool
	IPv6Network   netip.Prefix
	IPv6SubnetLen int
	IPv6SubnetMin netip.Addr
	IPv6SubnetMax netip.Addr

	Backend Backend

	// Unknown names the fields that mean nothing, to flannel neither; flannel
	// ignores them, and a field that is misspelt is one of them.
	Unknown string
}

// Backend says how packets travel between the nodes.
type Backend struct {
	Type          topology.Encap
	VNI           uint32 // 24 bits; vxlan only
	Port          uint16 // UDP destination port, host byte order; 0 where Type has none
	MTU           int    // bytes of IP packet the underlay carries, outer header included; 0: the uplink's MTU; vxlan only
	DirectRouting bool   // no encapsulation to nodes on the same link
	Learning      bool   // vxlan device option of flannel's
	GBP           bool   // vxlan device option of flannel's
}

// vniMax is the largest number of 24 bits (RFC 7348 section 5).
const vniMax = 1<<24 - 1

// An MTU below is no IPv4 link (RFC 791); one above does not fit the length
// field of an IPv4 header.
const mtuMin, mtuMax = 68, 65535

// MinIPv6MTU is the least that a link has to carry for IPv6 (RFC 8200 section
// 5), in bytes: on one with less the kernel has none.
const MinIPv6MTU = 1280

// defaultPorts holds the backends bpfnet knows and the port each defaults to:
// the Linux kernel's for vxlan (drivers/net/vxlan) and flannel's for udp.
var defaultPorts = map[topology.Encap]uint16{
	topology.EncapVXLAN: 8472,
	topology.EncapUDP:   8285,
	topology.EncapIPIP:  0,
	topology.EncapNone:  0,
}

// ParseConfig reads the value of the config key. Its error is one line that
// names the field and matches ErrBadConfig.
func ParseConfig(data []byte) (Config, error) {
	c, err := parseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	return c, nil
}

func parseConfig(data []byte) (Config, error) {
	raw := struct {
		EnableIPv4, EnableIPv6       bool
		Network, IPv6Network         string
		SubnetLen, IPv6SubnetLen     int
		SubnetMin, SubnetMax         string
		IPv6SubnetMin, IPv6SubnetMax string
		Backend                      json.RawMessage
	}{EnableIPv4: true}
	if err := json.Unmarshal(data, &raw); err != nil {
		return Config{}, jsonError("", err)
	}
	if !raw.EnableIPv4 && !raw.EnableIPv6 {
		return Config{}, errors.New("EnableIPv4 and EnableIPv6 are both false: enable one")
	}
	c := Config{EnableIPv4: raw.EnableIPv4, EnableIPv6: raw.EnableIPv6, Unknown: unknownFields(data, raw.Backend)}
	if c.EnableIPv4 {
		r, err := ipv4.parse(raw.Network, raw.SubnetLen, raw.SubnetMin, raw.SubnetMax)
		if err != nil {
			return Config{}, err
		}
		c.Network, c.SubnetLen, c.SubnetMin, c.SubnetMax = r.network, r.length, r.first, r.last
	}
	if c.EnableIPv6 {
		r, err := ipv6.parse(raw.IPv6Network, raw.IPv6SubnetLen, raw.IPv6SubnetMin, raw.IPv6SubnetMax)
		if err != nil {
			return Config{}, err
		}
		c.IPv6Network, c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax = r.network, r.length, r.first, r.last
	}
	b, err := parseBackend(raw.Backend)
	if err != nil {
		return Config{}, err
	}
	c.Backend = b
	if c.EnableIPv6 {
		err = b.carriesIPv6()
	}
	return c, err
}

// carriesIPv6 tells what keeps a backend from it.
func (b Backend) carriesIPv6() error {
	low := MinIPv6MTU + b.Type.Overhead(netip.IPv6Unspecified())
	switch {
	case b.Type == topology.EncapUDP:
		return errors.New("EnableIPv6 is set, but Backend.Type udp carries IPv4 alone, with flannel too: give vxlan, ipip or host-gw")
	case b.MTU != 0 && b.Type == topology.EncapVXLAN && b.MTU < low:
		return fmt.Errorf("Backend.MTU %d leaves containers less than the %d bytes that IPv6 needs: give %d or more", b.MTU, MinIPv6MTU, low)
	}
	return nil
}

// parseBackend reads the Backend object; flannel takes its absence for udp.
func parseBackend(data json.RawMessage) (Backend, error) {
	raw := struct {
		Type                         string
		VNI                          int64
		Port, MTU                    int
		DirectRouting, Learning, GBP bool
	}{VNI: 1}
	if len(data) == 0 {
		raw.Type = string(topology.EncapUDP)
	} else if err := json.Unmarshal(data, &raw); err != nil {
		return Backend{}, jsonError("Backend.", err)
	}
	b := Backend{
		Type:          topology.Encap(strings.ToLower(raw.Type)),
		MTU:           raw.MTU,
		DirectRouting: raw.DirectRouting,
		Learning:      raw.Learning,
		GBP:           raw.GBP,
	}
	port, known := defaultPorts[b.Type]
	switch {
	case raw.Type == "":
		return Backend{}, errors.New(`Backend.Type is missing: give "vxlan", "ipip", "host-gw" or "udp"`)
	case !known:
		return Backend{}, fmt.Errorf(`Backend.Type %q is not supported: give "vxlan", "ipip", "host-gw" or "udp"`, raw.Type)
	case raw.VNI < 0 || raw.VNI > vniMax:
		return Backend{}, fmt.Errorf("Backend.VNI %d is not within 0 to %d", raw.VNI, vniMax)
	case raw.Port < 0 || raw.Port > 65535:
		return Backend{}, fmt.Errorf("Backend.Port %d is not within 0 to 65535", raw.Port)
	case raw.MTU != 0 && (raw.MTU < mtuMin+b.Type.Overhead(netip.IPv4Unspecified()) || raw.MTU > mtuMax):
		return Backend{}, fmt.Errorf("Backend.MTU %d is not within %d to %d", raw.MTU, mtuMin+b.Type.Overhead(netip.IPv4Unspecified()), mtuMax)
	}
	if b.Type == topology.EncapVXLAN {
		b.VNI = uint32(raw.VNI)
	}
	if b.Port = port; port != 0 && raw.Port != 0 {
		b.Port = uint16(raw.Port)
	}
	return b, nil
}

// The fields of flannel's pkg/subnet/config.go and of its backends of our
// types, in lower case, as encoding/json matches them.
var (
	networkFields = fieldSet("EnableIPv4 EnableIPv6 EnableNFTables Network IPv6Network SubnetMin SubnetMax IPv6SubnetMin IPv6SubnetMax " +
		"SubnetLen IPv6SubnetLen Backend")
	backendFields = fieldSet("Type VNI Port MTU GBP Learning DirectRouting")
)

func fieldSet(names string) map[string]bool {
	set := map[string]bool{}
	for name := range strings.FieldsSeq(strings.ToLower(names)) {
		set[name] = true
	}
	return set
}

// unknownFields lists what two objects, of which the second is in the first's
// Backend, name besides.
func unknownFields(network, backend []byte) string {
	var unknown []string
	for _, o := range []struct {
		data   []byte
		prefix string
		known  map[string]bool
	}{{network, "", networkFields}, {backend, "Backend.", backendFields}} {
		var fields map[string]json.RawMessage
		if json.Unmarshal(o.data, &fields) != nil {
			continue // no object: its own reader says so, or there is none
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if !o.known[strings.ToLower(name)] {
				unknown = append(unknown, o.prefix+name)
			}
		}
	}
	return strings.Join(unknown, ", ")
}

// Warnings says, a line each, what the configuration asks for and bpfnet does
// not do.
func (c Config) Warnings() []string {
	var out []string
	if c.Unknown != "" {
		out = append(out, fmt.Sprintf("fields that are not known are ignored, as by flannel: %q: misspelt?", c.Unknown))
	}
	if c.Backend.GBP {
		out = append(out, "Backend.GBP is set, but group policy tags are neither sent nor read")
	}
	if c.Backend.Learning {
		out = append(out, "Backend.Learning is set, but addresses come from etcd alone: nothing is learned from packets")
	}
	if c.Backend.DirectRouting && (c.Backend.Type == topology.EncapUDP || c.Backend.Type == topology.EncapNone) {
		out = append(out, fmt.Sprintf("Backend.DirectRouting is set, but means nothing to %s: it is for vxlan and ipip", c.Backend.Type))
	}
	if c.Backend.MTU != 0 && c.Backend.Type != topology.EncapVXLAN {
		out = append(out, fmt.Sprintf("Backend.MTU is set, but %s follows the uplink's MTU, as with flannel: set that", c.Backend.Type))
	}
	return out
}

// jsonError says in the words of the configuration what encoding/json says in
// those of Go. where stands before the field's name.
func jsonError(where string, err error) error {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return fmt.Errorf("not JSON: %w", err)
	}
	want := map[string]string{"string": "a string", "bool": "true or false", "int": "a whole number",
		"int64": "a whole number"}[mismatch.Type.String()]
	if want == "" {
		want = "an object"
	}
	name := where + mismatch.Field
	if mismatch.Field == "" {
		name = strings.TrimSuffix("config."+where, ".")
	}
	return fmt.Errorf("%s is of type %s, not %s", name, mismatch.Value, want)
}
