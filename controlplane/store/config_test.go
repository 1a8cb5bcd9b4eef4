// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// compareAddrs makes cmp compare netip's types by ==.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// vxlan is the backend of {"Type":"vxlan"}.
var vxlan = Backend{Type: topology.EncapVXLAN, VNI: 1, Port: 8472}

func TestParseConfig(t *testing.T) {
	udp := Backend{Type: topology.EncapUDP, Port: 8285}
	v4 := func(network string, length int, first, last string, b Backend) Config {
		return Config{EnableIPv4: true, Network: prefix(network), SubnetLen: length,
			SubnetMin: addr(first), SubnetMax: addr(last), Backend: b}
	}
	v6 := func(network string, length int, first, last string) Config {
		return Config{EnableIPv6: true, IPv6Network: prefix(network), IPv6SubnetLen: length,
			IPv6SubnetMin: addr(first), IPv6SubnetMax: addr(last), Backend: vxlan}
	}
	wide := func(b Backend) Config { return v4("172.244.0.0/14", 24, "172.244.1.0", "172.247.255.0", b) }
	for _, tt := range []struct {
		name, json string
		want       Config
	}{
		// Those of flannel's config_test.go.
		{"defaults", `{ "network": "10.3.0.0/16" }`, v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},
		{"overrides", `{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28 }`,
			v4("10.3.0.0/16", 28, "10.3.5.0", "10.3.8.0", udp)},
		{"IPv6 defaults", `{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false, "Backend": { "Type": "vxlan" } }`,
			v6("fc00::/48", 64, "fc00:0:0:1::", "fc00:0:0:ffff::")},
		{"IPv6 overrides", `{ "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::",
			"IPv6SubnetMax": "fc00:0:0:f::", "IPv6SubnetLen": 124, "enableIPv4": false, "Backend": { "Type": "vxlan" } }`,
			v6("fc00::/48", 124, "fc00:0:0:1::", "fc00:0:0:f::")},

		{"/22 has room for four /24", `{"Network":"10.3.0.0/22"}`, v4("10.3.0.0/22", 24, "10.3.1.0", "10.3.3.0", udp)},
		{"/23 is split in four", `{"Network":"10.3.0.0/23"}`, v4("10.3.0.0/23", 25, "10.3.0.128", "10.3.1.128", udp)},
		{"/28 is split in four", `{"Network":"10.3.0.0/28"}`, v4("10.3.0.0/28", 30, "10.3.0.4", "10.3.0.12", udp)},
		{"end of the address space", `{"Network":"240.0.0.0/4"}`, v4("240.0.0.0/4", 24, "240.0.1.0", "255.255.255.0", udp)},
		{"host bits of Network", `{"Network":"10.3.4.5/16"}`, v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},
		{"0.0.0.0 is no SubnetMin", `{"Network":"10.3.0.0/16","SubnetMin":"0.0.0.0","SubnetMax":"0.0.0.0"}`,
			v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},
		{"first subnet if asked for", `{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.0"}`,
			v4("10.3.0.0/16", 24, "10.3.0.0", "10.3.255.0", udp)},
		{"nulls", `{"Network":"10.3.0.0/16","IPv6SubnetMin":null,"SubnetLen":null,"EnableIPv4":null}`,
			v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},
		{"fields of flannel's that change nothing", `{"Network":"10.3.0.0/16","enableNFTables":true,"Backend":{"Type":"udp","vni":7}}`,
			v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},
		{"fields of a family that is off", `{"Network":"10.3.0.0/16","IPv6Network":"rubbish","IPv6SubnetLen":-1}`,
			v4("10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", udp)},

		{"vxlan", `{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"vxlan"}}`, wide(vxlan)},
		{"vxlan, port 0", `{"Network":"172.244.0.0/14","Backend":{"Type":"vxlan","VNI":1,"Port":0}}`, wide(vxlan)},
		{"vxlan, all", `{"Network":"172.244.0.0/14","Backend":{"type":"VXLAN","vni":16777215,"port":4789,"mtu":1450,
			"directRouting":true,"learning":true,"gbp":true}}`,
			wide(Backend{Type: topology.EncapVXLAN, VNI: 16777215, Port: 4789, MTU: 1450,
				DirectRouting: true, Learning: true, GBP: true})},
		{"ipip", `{"Network":"172.244.0.0/14","Backend":{"Type":"ipip","DirectRouting":true,"Port":99}}`,
			wide(Backend{Type: topology.EncapIPIP, DirectRouting: true})},
		{"host-gw", `{"Network":"172.244.0.0/14","Backend":{"Type":"host-gw"}}`, wide(Backend{Type: topology.EncapNone})},
		{"udp", `{"Network":"172.244.0.0/14","Backend":{"Type":"udp","Port":7890}}`,
			wide(Backend{Type: topology.EncapUDP, Port: 7890})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(tt.json))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, tt := range []struct{ json, want string }{
		{``, "not JSON: unexpected end of JSON input"},
		{`{"Network":"10.3.0.0/16"} x`, "not JSON: invalid character 'x' after top-level value"},
		{`[]`, "config is of type array, not an object"},
		{`{"Network":5}`, "Network is of type number, not a string"},
		{`{"SubnetLen":"24"}`, "SubnetLen is of type string, not a whole number"},
		{`{"EnableIPv6":"yes"}`, "EnableIPv6 is of type string, not true or false"},
		{`{}`, `Network is missing: give one such as "10.244.0.0/16"`},
		{`{"Network":"10.3.0.0"}`, `Network "10.3.0.0" is no network: give one such as "10.244.0.0/16"`},
		{`{"Network":"fc00::/48"}`, `Network "fc00::/48" is no network: give one such as "10.244.0.0/16"`},
		{`{"Network":"0.0.0.0/0"}`, `Network "0.0.0.0/0" is no network: give one such as "10.244.0.0/16"`},
		{`{"Network":"10.3.0.0/29"}`, "Network 10.3.0.0/29 is too small: the smallest is a /28"},
		{`{"Network":"10.3.0.0/16","SubnetLen":31}`, "SubnetLen 31 is not within 1 to 30"},
		{`{"Network":"10.3.0.0/16","SubnetLen":-1}`, "SubnetLen -1 is not within 1 to 30"},
		{`{"Network":"10.3.0.0/16","SubnetLen":17}`,
			"SubnetLen 17 leaves Network 10.3.0.0/16 less than four subnets: give 18 or more"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}`, "SubnetMin 10.4.0.0 is not in Network 10.3.0.0/16"},
		{`{"Network":"10.3.0.0/16","SubnetMax":"10.2.0.0"}`, "SubnetMax 10.2.0.0 is not in Network 10.3.0.0/16"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.3.5.7"}`, "SubnetMin 10.3.5.7 is not where a /24 begins: give 10.3.5.0"},
		{`{"Network":"10.3.0.0/16","SubnetMax":"10.3.5.7"}`, "SubnetMax 10.3.5.7 is not where a /24 begins: give 10.3.5.0"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.3.300.0"}`,
			`SubnetMin "10.3.300.0" is no address: give the first one of a subnet, such as "10.3.1.0"`},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}`,
			"SubnetMin 10.3.9.0 is above SubnetMax 10.3.8.0: no subnet is left to lease"},
		{`{"EnableIPv4":false}`, "EnableIPv4 and EnableIPv6 are both false: enable one"},
		{`{"Network":"10.3.0.0/16","EnableIPv6":true}`, `IPv6Network is missing: give one such as "fc00::/48"`},
		{`{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"10.3.0.0/16"}`,
			`IPv6Network "10.3.0.0/16" is no network: give one such as "fc00::/48"`},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/125"}`,
			"IPv6Network fc00::/125 is too small: the smallest is a /124"},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetLen":127}`,
			"IPv6SubnetLen 127 is not within 1 to 126"},
		{`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMin":"fc00::1"}`,
			"IPv6SubnetMin fc00::1 is not where a /64 begins: give fc00::"},
		{`{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}`,
			"EnableIPv6 is set, but Backend.Type udp carries IPv4 alone, with flannel too: give vxlan, ipip or host-gw"},
		{`{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"vxlan","MTU":1349}}`,
			"Backend.MTU 1349 leaves containers less than the 1280 bytes that IPv6 needs: give 1350 or more"},
		{`{"Network":"10.3.0.0/16","Backend":"vxlan"}`, "config.Backend is of type string, not an object"},
		{`{"Network":"10.3.0.0/16","Backend":null}`,
			`Backend.Type is missing: give "vxlan", "ipip", "host-gw" or "udp"`},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"wireguard"}}`,
			`Backend.Type "wireguard" is not supported: give "vxlan", "ipip", "host-gw" or "udp"`},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`,
			"Backend.VNI 16777216 is not within 0 to 16777215"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}`, "Backend.VNI -1 is not within 0 to 16777215"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","VNI":"1"}}`,
			"Backend.VNI is of type string, not a whole number"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"udp","Port":65536}}`, "Backend.Port 65536 is not within 0 to 65535"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":67}}`, "Backend.MTU 67 is not within 118 to 65535"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":117}}`, "Backend.MTU 117 is not within 118 to 65535"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":-1}}`, "Backend.MTU -1 is not within 118 to 65535"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan","MTU":"1450"}}`, "Backend.MTU is of type string, not a whole number"},
	} {
		_, err := ParseConfig([]byte(tt.json))
		if !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: error %v is no ErrBadConfig", tt.json, err)
			continue
		}
		if want := "bad network config: " + tt.want; err.Error() != want {
			t.Errorf("%s:\n got %s\nwant %s", tt.json, err, want)
		}
	}
}

// TestUnsupportedBackends: flannel's others (pkg/backend) are refused by name.
func TestUnsupportedBackends(t *testing.T) {
	for _, name := range []string{"alloc", "extension", "ipsec", "tencent-vpc", "wireguard", "aws-vpc", "gce", "ali-vpc", "VXLan ", ""} {
		_, err := ParseConfig([]byte(`{"Network":"10.3.0.0/16","Backend":{"Type":"` + name + `"}}`))
		if !errors.Is(err, ErrBadConfig) || !strings.Contains(err.Error(), `give "vxlan", "ipip", "host-gw" or "udp"`) ||
			!strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v", name, err)
		}
	}
}

// TestUnknownFields: what is misspelt is said, for it is ignored.
func TestUnknownFields(t *testing.T) {
	for json, want := range map[string]string{
		`{"Network":"10.3.0.0/16","Backed":{"Type":"vxlan"}}`:                                `"Backed"`,
		`{"Network":"10.3.0.0/16","Subnetlen":24,"x\ny":1,"Backend":{"Type":"udp","Mut":1}}`: `"x\ny, Backend.Mut"`,
		`{"Network":"10.3.0.0/16","backend":{"type":"vxlan","directrouting":false}}`:         "",
	} {
		w := mustParseConfig(t, json).Warnings()
		if (want == "") != (len(w) == 0) || want != "" && !strings.Contains(w[0], want) {
			t.Errorf("%s warns of %q, want %s", json, w, want)
		}
	}
}

func TestConfigWarnings(t *testing.T) {
	if w := (Config{EnableIPv4: true, Backend: vxlan}).Warnings(); len(w) != 0 {
		t.Errorf("plain config warns of %q", w)
	}
	w := Config{EnableIPv4: true, Backend: Backend{Type: topology.EncapIPIP, MTU: 1400, GBP: true, Learning: true}}.Warnings()
	if len(w) != 3 || !strings.HasPrefix(w[0], "Backend.GBP is set") {
		t.Errorf("got warnings %q, want three", w)
	}
	for _, typ := range []topology.Encap{topology.EncapUDP, topology.EncapNone} {
		w = Config{EnableIPv4: true, Backend: Backend{Type: typ, DirectRouting: true}}.Warnings()
		if len(w) != 1 || !strings.HasPrefix(w[0], "Backend.DirectRouting is set") {
			t.Errorf("%s: warnings %q", typ, w)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"Network":"172.244.0.0/14","SubnetLen":24,"Backend":{"Type":"vxlan","VNI":1}}`))
	f.Add([]byte(`{"Network":"10.3.0.0/28","SubnetMin":"10.3.0.4","SubnetMax":"10.3.0.12"}`))
	f.Add([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"ipip"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		for _, r := range []subnetRange{c.v4(), c.v6()} {
			if !r.network.IsValid() {
				continue
			}
			free := r.free(3, func(netip.Prefix) bool { return false })
			if len(free) == 0 {
				t.Errorf("%+v has no subnet to lease", c)
			}
			for _, p := range free {
				if !c.Fits(p) || !r.network.Contains(p.Addr()) || p != p.Masked() {
					t.Errorf("%+v leases %v", c, p)
				}
				if v6 := c.beside(p); p.Addr().Is4() && v6.IsValid() && (v6.Bits() != c.IPv6SubnetLen || !c.IPv6Network.Contains(v6.Addr())) {
					t.Errorf("%+v leases %v beside %v", c, v6, p)
				}
			}
		}
	})
}
