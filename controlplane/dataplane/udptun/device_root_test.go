// SPDX-License-Identifier: Apache-2.0

//go:build root

package udptun_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/controlplane/dataplane/udptun"
)

func TestDevice(t *testing.T) {
	r := newRig(t)
	r.open(r.left)
	for _, want := range []string{"mtu 1472", "qlen 4096", "NOARP", "UP", "tun type tun pi off vnet_hdr off persist on", "addrgenmode none"} {
		if out := r.run(r.left, "ip -d link show "+udptun.DeviceName); !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if out := r.run(r.left, "cat /proc/sys/net/ipv4/conf/"+udptun.DeviceName+"/rp_filter"); strings.TrimSpace(out) != "2" {
		t.Errorf("rp_filter is %s", out)
	}
	r.close(r.left)
	// Adopted, and put right.
	r.run(r.left, "ip link set mtu 1300 down dev "+udptun.DeviceName)
	r.open(r.left)
	if out := r.run(r.left, "ip link show "+udptun.DeviceName); !strings.Contains(out, "mtu 1472") || !strings.Contains(out, "LOWER_UP") {
		t.Errorf("adopted as:\n%s", out)
	}
	r.close(r.left)
	for range 2 {
		if err := r.left.Do(udptun.Remove); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.left.Run(r.ctx, "ip", "link", "show", udptun.DeviceName); err == nil {
		t.Error("the device is still there")
	}
}

func TestForeignDevice(t *testing.T) {
	for kind, command := range map[string]string{
		"veth": "ip link add bpfnet-tun type veth",
		"tap":  "ip tuntap add bpfnet-tun mode tap",
	} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			r.run(r.left, command)
			want := "bpfnet-tun is a " + kind + " device that bpfnet did not make: rename or remove it"
			if _, err := openIn(r.left, options(r.left)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("open: %v, want %q", err, want)
			}
			if err := r.left.Do(udptun.Remove); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("remove: %v, want %q", err, want)
			}
			r.run(r.left, "ip link show bpfnet-tun")
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	r := newRig(t)
	r.open(r.left)
	tests := map[string]struct {
		change func(o *udptun.Options)
		want   string
	}{
		"the same port":      {func(*udptun.Options) {}, "address already in use"},
		"the same device":    {func(o *udptun.Options) { o.Port = 8286 }, "another process copies its packets"},
		"an address not had": {func(o *udptun.Options) { o.Node = nodeC }, "cannot assign requested address"},
		"no port":            {func(o *udptun.Options) { o.Port = 0 }, "a port is needed"},
		"IPv6":               {func(o *udptun.Options) { o.Node = netip.IPv6Loopback() }, "only IPv4 is supported"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := options(r.left)
			tt.change(&o)
			if _, err := openIn(r.left, o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
