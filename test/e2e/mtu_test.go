// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/lab"
)

// TestMTU gives the containers of h1 links of MTU 2000, so that they send what
// is too big for the overlay (topology as TestOverlay). With DF the host answers
// with the MTU that fits, to the byte; without it, the host cuts.
func TestMTU(t *testing.T) {
	forEach(t, allModes, nil, func(t *testing.T, l *lab.Lab) {
		h1, h2 := l.Hosts[0], l.Hosts[1]
		widen(t, h1)
		mtu := l.Options.ContainerMTU()
		equal(t, "MTU", map[topology.Encap]int{
			topology.EncapVXLAN: 1450, topology.EncapIPIP: 1480, topology.EncapUDP: 1472, topology.EncapNone: 1500,
		}[l.Options.Backend], mtu)
		from := h1.Containers[0]
		t.Run("fits with DF", func(t *testing.T) { pingSize(t, from, h2.Containers[0], mtu, "-M", "do") })
		t.Run("cut without DF", func(t *testing.T) {
			pingSize(t, from, h2.Containers[0], mtu+1, "-M", "dont")
			pingSize(t, from, h2.Containers[0], 2000, "-M", "dont")
		})
		t.Run("refused with DF", func(t *testing.T) { refused(t, from, h2.Containers[1], mtu+1, mtu) })
		t.Run("refused to the host itself", func(t *testing.T) {
			out, err := h1.NS.Run(t.Context(), pingArgs(h2.Containers[1], mtu+1, "-M", "do")...)
			if want := fmt.Sprintf("mtu=%d", mtu); err == nil || !strings.Contains(out+err.Error(), want) {
				t.Errorf("ping says %q, %v; want %q", out, err, want)
			}
		})
	})
}

// widen gives all containers of a host, and its bridge, an MTU of 2000.
func widen(t *testing.T, h *lab.Host) {
	t.Helper()
	for _, c := range h.Containers {
		run(t, h.NS, "ip", "link", "set", c.Veth, "mtu", "2000")
		run(t, c.NS, "ip", "link", "set", "eth0", "mtu", "2000")
	}
	run(t, h.NS, "ip", "link", "set", h.Bridge, "mtu", "2000")
}

// pingArgs are one ping as an IP packet of that many bytes.
func pingArgs(to *lab.Container, size int, args ...string) []string {
	return append(append([]string{"ping", "-c", "1", "-W", "5", "-s", fmt.Sprint(size - 28)}, args...), to.Addr.String())
}

func pingSize(t *testing.T, from, to *lab.Container, size int, args ...string) {
	t.Helper()
	run(t, from.NS, pingArgs(to, size, args...)...)
}

// refused sends an IP packet of that many bytes with DF, and wants the ICMP
// error of RFC 1191 with the MTU to use instead.
func refused(t *testing.T, from, to *lab.Container, size, mtu int) {
	t.Helper()
	c := capture(t, from.NS, "eth0")
	out, err := from.NS.Run(t.Context(), pingArgs(to, size, "-M", "do")...)
	if err == nil {
		t.Errorf("%d bytes with DF went through: %s", size, out)
	}
	needed := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded)
	want := []string{fmt.Sprintf("%v, MTU %d", needed, mtu)}
	var got []string
	for _, p := range stop(t, c) {
		if d := lab.Decode(p); !p.Outgoing && len(d.ICMP) > 0 {
			got = append(got, fmt.Sprintf("%v, MTU %d", d.ICMP[0].TypeCode, d.ICMP[0].Seq))
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("ICMP to the container %q, want %q; ping says %s", got, want, out)
	}
}
