// SPDX-License-Identifier: Apache-2.0

package store

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

var mac1 = topology.MAC{0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44}

// TestLeaseCodec holds both directions to what flanneld 0.28 writes.
func TestLeaseCodec(t *testing.T) {
	v6 := addr("2001:db8::3")
	for _, tt := range []struct {
		name, key, value string
		want             Lease
	}{
		{"vxlan", "10.5.52.0-24",
			`{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`,
			Lease{Subnet: prefix("10.5.52.0/24"), PublicIP: addr("192.168.64.3"), Backend: topology.EncapVXLAN, VNI: 1, MAC: mac1}},
		{"vxlan, dual stack", "172.245.0.0-24&2001:db8:42:1::-64",
			`{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::3","BackendType":"vxlan",` +
				`"BackendData":{"VNI":70000,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":70000,"VtepMAC":"c6:d2:32:6f:8f:45"}}`,
			Lease{Subnet: prefix("172.245.0.0/24"), Subnet6: prefix("2001:db8:42:1::/64"),
				PublicIP: addr("192.168.64.3"), PublicIPv6: v6, Backend: topology.EncapVXLAN, VNI: 70000,
				MAC: mac1, MACv6: topology.MAC{0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x45}}},
		{"vxlan, IPv6 alone", "0.0.0.0-0&2001:db8:42:1::-64",
			`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`,
			Lease{Subnet6: prefix("2001:db8:42:1::/64"), PublicIPv6: v6, Backend: topology.EncapVXLAN, VNI: 1, MACv6: mac1}},
		{"vxlan, IPv6 without UDP checksums", "0.0.0.0-0&2001:db8:42:1::-64", // bpfnet's own
			`{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44","UDP6ZeroChecksumRx":true}}`,
			Lease{Subnet6: prefix("2001:db8:42:1::/64"), PublicIPv6: v6, Backend: topology.EncapVXLAN, VNI: 1, MACv6: mac1, ZeroChecksum6: true}},
		{"ipip, IPv4 over IPv6", "172.245.0.0-24", `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::3","BackendType":"ipip"}`,
			Lease{Subnet: prefix("172.245.0.0/24"), PublicIPv6: v6, Backend: topology.EncapIPIP}},
		{"ipip, IPv6 over IPv4", "0.0.0.0-0&2001:db8:42:1::-64", `{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"ipip"}`,
			Lease{Subnet6: prefix("2001:db8:42:1::/64"), PublicIP: addr("192.168.64.3"), Backend: topology.EncapIPIP}},
		{"host-gw, dual stack", "172.245.0.0-24&2001:db8:42:1::-64",
			`{"PublicIP":"192.168.64.3","PublicIPv6":"2001:db8::3","BackendType":"host-gw"}`,
			Lease{Subnet: prefix("172.245.0.0/24"), Subnet6: prefix("2001:db8:42:1::/64"),
				PublicIP: addr("192.168.64.3"), PublicIPv6: v6, Backend: topology.EncapNone}},
		{"ipip", "172.245.0.0-24", `{"PublicIP":"192.168.32.245","PublicIPv6":null,"BackendType":"ipip"}`,
			Lease{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245"), Backend: topology.EncapIPIP}},
		{"host-gw", "172.245.0.0-24", `{"PublicIP":"192.168.32.245","PublicIPv6":"2001:db8::3","BackendType":"host-gw"}`,
			Lease{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245"), PublicIPv6: v6, Backend: topology.EncapNone}},
		{"udp", "172.245.0.0-24", `{"PublicIP":"192.168.32.245","PublicIPv6":null}`,
			Lease{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245"), Backend: topology.EncapUDP}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseLease(tt.key, []byte(tt.value))
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Key = tt.key
			if diff := cmp.Diff(tt.want, got, compareAddrs); diff != "" {
				t.Errorf("lease (-want +got):\n%s", diff)
			}
			value, err := got.Value()
			if err != nil {
				t.Fatal(err)
			}
			if string(value) != tt.value {
				t.Errorf("value:\n got %s\nwant %s", value, tt.value)
			}
			if key := leaseKey(got.Subnet, got.Subnet6); key != tt.key {
				t.Errorf("key is %q, want %q", key, tt.key)
			}
		})
	}
}

// TestParseLeaseTolerates holds what other versions of flannel write.
func TestParseLeaseTolerates(t *testing.T) {
	for _, value := range []string{
		`{"PublicIP":"192.168.32.245","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`,
		`{"PublicIP":"192.168.32.245","BackendType":"vxlan","BackendData":{"VtepMAC":"C6-D2-32-6F-8F-44","VNI":1},"New":1}`,
		` {"PublicIP": "192.168.32.245", "BackendType": "vxlan", "BackendV6Data": null,
			"BackendData": {"VNI": 1, "VtepMAC": "c6d2.326f.8f44", "Zone": {}}} `,
	} {
		l, err := ParseLease("172.245.0.0-24", []byte(value))
		if err != nil || l.MAC != mac1 || l.VNI != 1 || l.PublicIP != addr("192.168.32.245") {
			t.Errorf("%s:\ngot %+v, error %v", value, l, err)
		}
	}
}

func TestParseLeaseErrors(t *testing.T) {
	const key, good = "172.245.0.0-24", `{"PublicIP":"192.168.32.245"}`
	vx := func(data string) string {
		return `{"PublicIP":"192.168.32.245","BackendType":"vxlan"` + data + `}`
	}
	for _, tt := range []struct{ key, value, want string }{
		{"", good, "key names no subnet"},
		{"config", good, "key names no subnet"},
		{"x/172.245.0.0-24", good, "key names no subnet"},
		{"172.245.0.0/24", good, "key names no subnet"},
		{"172.245.0.0-33", good, "key names no subnet"},
		{"172.245.0.0-32", good, "key names no subnet"},
		{"172.245.0.0-0", good, "key names no subnet"},
		{"0.0.0.0-0", good, "key names no subnet"},
		{"172.245.0.0-24&", good, "key names no subnet"},
		{"172.245.0.0-24&10.0.0.0-24", good, "key names no subnet"},
		{"2001:db8::-64", good, "key names no subnet"},
		{"172.245.0.0-024", good, `key is not written as flannel writes it, "172.245.0.0-24"`},
		{"172.245.0.0-24&2001:DB8::-64", good, "key is not written as flannel writes it"},
		{"172.245.1.0-16", good, "subnet 172.245.1.0/16 is misaligned: a /16 begins at 172.245.0.0"},
		{key, ``, "value is no lease"},
		{key, `{"PublicIP":"192.168.32.245"`, "value is no lease"},
		{key, `"x"`, "value is no lease"},
		{key, `{"PublicIP":7}`, "value is no lease"},
		{key, `{}`, "PublicIP is missing"},
		{key, `{"PublicIP":"host1"}`, `PublicIP "host1" is no address`},
		{key, `{"PublicIP":"2001:db8::1"}`, `PublicIP "2001:db8::1" is no address`},
		{key, `{"PublicIP":"0.0.0.0"}`, "PublicIP 0.0.0.0 is no node's address"},
		{key, `{"PublicIP":"224.0.0.1"}`, "PublicIP 224.0.0.1 is no node's address"},
		{key, `{"PublicIP":"255.255.255.255"}`, "PublicIP 255.255.255.255 is no node's address"},
		{key, `{"PublicIP":"172.245.0.9"}`, "PublicIP 172.245.0.9 lies in the lease's own subnet 172.245.0.0/24"},
		{key, `{"PublicIP":"192.168.32.245","PublicIPv6":"::"}`, "PublicIPv6 :: is no node's address"},
		{"0.0.0.0-0&2001:db8::-64", `{"PublicIP":"0.0.0.0","BackendType":"ipip"}`, "PublicIPv6 is missing"},
		{"172.245.0.0-24&2001:db8::-64", `{"PublicIP":"192.168.32.245","PublicIPv6":"2001:db8::9"}`, "lies in the lease's own subnet 2001:db8::/64"},
		{key, `{"PublicIP":"0.0.0.0","PublicIPv6":"2001:db8::1","BackendType":"host-gw"}`, "PublicIP 0.0.0.0 is no node's address"},
		{key, `{"PublicIP":"192.168.32.245","BackendType":"wireguard","BackendData":{"PublicKey":"x"}}`,
			`BackendType "wireguard" is not supported`},
		{key, vx(``), "BackendData.VtepMAC is missing"},
		{key, vx(`,"BackendData":null`), "BackendData.VtepMAC is missing"},
		{key, vx(`,"BackendData":{"VNI":1}`), "BackendData.VtepMAC is missing"},
		{key, vx(`,"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f"}`), `BackendData.VtepMAC "c6:d2:32:6f:8f" is no Ethernet address`},
		{key, vx(`,"BackendData":{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`), "is no address of one station"},
		{key, vx(`,"BackendData":{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`), "is no address of one station"},
		{key, vx(`,"BackendData":{"VNI":16777216,"VtepMAC":"c6:d2:32:6f:8f:44"}`), "BackendData.VNI 16777216 is not within"},
		{key, vx(`,"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1}`), "BackendV6Data.VtepMAC is missing"},
	} {
		l, err := ParseLease(tt.key, []byte(tt.value))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %s:\n got %v\nwant one line with %s", tt.key, tt.value, err, tt.want)
		}
		if l != (Lease{}) {
			t.Errorf("%s %s: an error and lease %+v", tt.key, tt.value, l)
		}
	}
}

func TestLeaseValueErrors(t *testing.T) {
	for _, l := range []Lease{
		{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245"), Backend: topology.EncapVXLAN, VNI: 1},
		{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245"), Backend: "wireguard"},
		{Subnet: prefix("172.245.0.0/24"), PublicIP: addr("192.168.32.245")},
	} {
		if v, err := l.Value(); err == nil {
			t.Errorf("%+v is encoded as %s", l, v)
		}
	}
}

func FuzzParseLease(f *testing.F) {
	f.Add("172.245.0.0-24", []byte(`{"PublicIP":"192.168.32.245","PublicIPv6":null,"BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}`))
	f.Add("172.245.0.0-24&2001:db8:42:1::-64", []byte(`{"PublicIP":"192.168.32.245","PublicIPv6":"2001:db8::1","BackendType":"ipip"}`))
	f.Add("0.0.0.0-0&fc00::-64", []byte(`{"PublicIP":"0.0.0.0","PublicIPv6":"fc01::1"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		l, err := ParseLease(key, value)
		if err != nil {
			return
		}
		again, err := l.Value()
		if err != nil {
			t.Fatalf("lease %+v is not encoded: %v", l, err)
		}
		l2, err := ParseLease(leaseKey(l.Subnet, l.Subnet6), again)
		if err != nil || l2 != l {
			t.Errorf("%s %s\n became %+v,\nthen %s\n became %+v, error %v", key, value, l, again, l2, err)
		}
	})
}
