// SPDX-License-Identifier: Apache-2.0

//go:build root

package blackhole

import (
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/bpfnet/bpfnet/test/nstest"
)

func ip(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestEnsure(t *testing.T) {
	nstest.Enter(t)
	nstest.AddVeth(t, "eth0", 1500, "192.168.32.245/24")
	ip(t, "route add default via 192.168.32.1")
	ip(t, "route add blackhole 10.9.0.0/16") // somebody else's
	const one, two = "10.5.1.0/24", "10.5.2.0/24"
	blackhole := func(subnet string) string {
		return "blackhole " + subnet + " metric 65536"
	}
	const six = "2001:db8:42:1::/64"
	for _, step := range []struct {
		subnets []string
		changed bool
	}{
		{[]string{one}, true}, {[]string{one}, false}, {[]string{two}, true}, {[]string{two}, false},
		{[]string{two, six}, true}, {[]string{two, six}, false}, {[]string{six}, true}, {nil, true}, {nil, false},
	} {
		var subnets []netip.Prefix
		var want []string
		for _, s := range step.subnets {
			subnets, want = append(subnets, netip.MustParsePrefix(s)), append(want, blackhole(s))
		}
		changed, err := Ensure(subnets...)
		if err != nil || changed != step.changed {
			t.Errorf("%q: changed %t, error %v", step.subnets, changed, err)
		}
		got := strings.Join(strings.Fields(ip(t, "route show proto 97")+" "+ip(t, "-6 route show proto 97")), " ")
		got = strings.TrimSuffix(strings.ReplaceAll(got, six+" dev lo", six), " pref medium")
		if want := strings.Join(want, " "); got != want {
			t.Errorf("%q: routes are %q, want %q", step.subnets, got, want)
		}
	}
	if got := ip(t, "route show type blackhole"); !strings.HasPrefix(got, "blackhole 10.9.0.0/16") {
		t.Errorf("the other one is gone: %q", got)
	}
}

// TestBehindOthers: a bridge of the subnet, there before or after, goes before it.
func TestBehindOthers(t *testing.T) {
	for name, before := range map[string]bool{"bridge first": true, "route first": false} {
		for _, subnet := range []string{"10.5.1.0/24", "2001:db8:42:1::/64"} {
			t.Run(name+" "+subnet, func(t *testing.T) {
				nstest.Enter(t)
				p := netip.MustParsePrefix(subnet)
				gateway := p.Addr().Next()
				container := gateway.Next().String()
				bridge := func() { nstest.AddVeth(t, "cni0", 1450, netip.PrefixFrom(gateway, p.Bits()).String()) }
				if before {
					bridge()
				}
				if _, err := Ensure(p); err != nil {
					t.Fatal(err)
				}
				if !before {
					if out, err := exec.Command("ip", "route", "get", container).CombinedOutput(); err == nil {
						t.Errorf("there is a way: %s", out)
					}
					bridge()
				}
				if got := ip(t, "route get "+container); !strings.Contains(got, "dev cni0") {
					t.Errorf("the way is %q", got)
				}
				if err := Cleanup(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
