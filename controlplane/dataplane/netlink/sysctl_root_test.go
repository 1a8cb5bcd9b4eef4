// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

func TestEnsureForwarding(t *testing.T) {
	s := host1(t, topology.EncapVXLAN)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"net/ipv4/ip_forward=1"}, nil} {
		changed, err := EnsureForwarding(s)
		if diff := cmp.Diff(want, changed); err != nil || diff != "" {
			t.Errorf("error %v, changed (-want +got):\n%s", err, diff)
		}
	}
	if got := sysctl(t, "net/ipv4/ip_forward"); got != "1" {
		t.Errorf("ip_forward is %s", got)
	}
}

// A node that has its default route from a router keeps it when it becomes a router itself.
func TestEnsureForwarding6(t *testing.T) {
	_, s := host1v6(t, topology.EncapVXLAN)
	nstest.AddVeth(t, "eth1", 1500, "2001:db8:33::245/64")
	nstest.AddVeth(t, "eth2", 1500, "2001:db8:34::245/64")
	ip(t, "ip", "route", "add", "default", "via", "2001:db8:33::1", "dev", "eth1", "proto", "ra")
	if got := sysctl(t, "net/ipv6/conf/eth2/accept_ra"); got != "1" {
		t.Fatalf("accept_ra is %s: the test shows nothing", got)
	}
	for _, want := range [][]string{
		{"net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/eth1/accept_ra=2", "net/ipv6/conf/all/forwarding=1"}, nil,
	} {
		changed, err := EnsureForwarding(s)
		if diff := cmp.Diff(want, changed); err != nil || diff != "" {
			t.Errorf("error %v, changed (-want +got):\n%s", err, diff)
		}
	}
	for name, want := range map[string]string{
		"net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/eth0/accept_ra": "2",
		"net/ipv6/conf/eth1/accept_ra": "2", "net/ipv6/conf/eth2/accept_ra": "1",
	} {
		if got := sysctl(t, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
