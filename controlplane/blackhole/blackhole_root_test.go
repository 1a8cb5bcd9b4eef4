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
	for _, step := range []struct {
		subnet  string
		changed bool
	}{{one, true}, {one, false}, {two, true}, {two, false}, {"", true}, {"", false}} {
		var subnet netip.Prefix
		want := ""
		if step.subnet != "" {
			subnet, want = netip.MustParsePrefix(step.subnet), blackhole(step.subnet)
		}
		changed, err := Ensure(subnet)
		if err != nil || changed != step.changed {
			t.Errorf("%q: changed %t, error %v", step.subnet, changed, err)
		}
		if got := strings.Join(strings.Fields(ip(t, "route show proto 97")), " "); got != want {
			t.Errorf("%q: routes are %q, want %q", step.subnet, got, want)
		}
	}
	if got := ip(t, "route show type blackhole"); !strings.HasPrefix(got, "blackhole 10.9.0.0/16") {
		t.Errorf("the other one is gone: %q", got)
	}
}

// TestBehindOthers: a bridge of the subnet, there before or after, goes before it.
func TestBehindOthers(t *testing.T) {
	for name, before := range map[string]bool{"bridge first": true, "route first": false} {
		t.Run(name, func(t *testing.T) {
			nstest.Enter(t)
			bridge := func() { nstest.AddVeth(t, "cni0", 1450, "10.5.1.1/24") }
			if before {
				bridge()
			}
			if _, err := Ensure(netip.MustParsePrefix("10.5.1.0/24")); err != nil {
				t.Fatal(err)
			}
			if !before {
				if out, err := exec.Command("ip", "route", "get", "10.5.1.7").CombinedOutput(); err == nil {
					t.Errorf("there is a way: %s", out)
				}
				bridge()
			}
			if got := ip(t, "route get 10.5.1.7"); !strings.Contains(got, "dev cni0") {
				t.Errorf("the way is %q", got)
			}
			if err := Cleanup(); err != nil {
				t.Error(err)
			}
		})
	}
}
