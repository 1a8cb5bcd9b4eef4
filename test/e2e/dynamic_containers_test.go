// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/test/lab"
)

// TestContainersComeAndGo changes the containers of h1 while h2/c1 pings h1/c1
// 1,000 times a second.
//
//	h1/c1 172.245.0.2  h1/c2 .3  h1/c3 .4      h2/c1 172.246.0.2
//	      └────── br245 .1 ─────────┘               │
//	             h1 .245                         h2 .246
//	                └──────── 192.168.32.0/24 ──────┘
//	etcd in h1's daemon
func TestContainersComeAndGo(t *testing.T) {
	l := serve(t, func(o *lab.Options) { o.Containers = 3 })
	h1, h2 := l.Hosts[0], l.Hosts[1]
	// A bridge takes the lowest of its ports' MACs: here c3's, whatever the kernel chose for the others.
	run(t, h1.NS, "ip", "link", "set", h1.Containers[2].Veth, "address", "02:00:00:00:00:03")
	c := &comeAndGo{h1: h1, h2: h2}
	c.endpointsFollow(t)
	bystander := startFlow(t, h2.Containers[0], h1.Containers[0], time.Millisecond)
	t.Run("link deleted", c.linkDeleted)
	t.Run("restarted with the same address", c.restarted)
	t.Run("address moved", c.addressMoved)
	t.Run("bridge MAC lowered by a new port", c.bridgeMACLowered)
	bystander.intact()
	t.Run("bridge MAC gone with its port", c.bridgeMACGone)
}

type comeAndGo struct{ h1, h2 *lab.Host }

// endpointsFollow waits until the map holds the containers as they are, and
// nothing else, and returns how long that took.
func (c *comeAndGo) endpointsFollow(t *testing.T) time.Duration {
	t.Helper()
	since := time.Now()
	until(t, "h1's endpoints follow", func() (bool, error) {
		want, err := c.endpoints()
		if err != nil {
			return false, err
		}
		got := map[string]string{}
		set, err := c.h1.Maps()
		if err != nil {
			return false, err
		}
		all, err := set.Endpoints.All()
		for k, e := range all {
			got[k.Addr.String()] = fmt.Sprintf("%d %s %s", e.Ifindex, net.HardwareAddr(e.MAC[:]), net.HardwareAddr(e.Gateway[:]))
		}
		if closeErr := set.Close(); closeErr != nil {
			return false, closeErr
		}
		return fmt.Sprint(got) == fmt.Sprint(want), err
	})
	return time.Since(since)
}

// endpoints is where the addresses of h1's containers are: the host's end of
// their link, their MAC and the bridge's.
func (c *comeAndGo) endpoints() (map[string]string, error) {
	want := map[string]string{}
	for _, container := range c.h1.Containers {
		var ifindex int
		var mac, gateway net.HardwareAddr
		err := c.h1.NS.Do(func() error {
			veth, err := netlink.LinkByName(container.Veth)
			if err != nil {
				return err
			}
			bridge, err := netlink.LinkByName(c.h1.Bridge)
			ifindex, gateway = veth.Attrs().Index, bridge.Attrs().HardwareAddr
			return err
		})
		if err != nil {
			return nil, err
		}
		err = container.NS.Do(func() error {
			eth, ethErr := netlink.LinkByName("eth0")
			if ethErr != nil {
				return ethErr
			}
			mac = eth.Attrs().HardwareAddr
			addrs, listErr := netlink.AddrList(eth, netlink.FAMILY_V4)
			for _, a := range addrs {
				want[a.IP.String()] = fmt.Sprintf("%d %s %s", ifindex, mac, gateway)
			}
			return listErr
		})
		if err != nil {
			return nil, err
		}
	}
	return want, nil
}

// delivered pings an address of h1 from h2: not one is lost.
func (c *comeAndGo) delivered(t *testing.T, to *lab.Container) {
	t.Helper()
	ping(t, c.h2.Containers[0].NS, to.Addr, lab.PingOptions{Count: 50, Interval: time.Millisecond})
}

func (c *comeAndGo) linkDeleted(t *testing.T) {
	c2 := c.h1.Containers[1]
	run(t, c.h1.NS, "ip", "link", "del", c2.Veth)
	noError(t, c.h1.RemoveContainer(c2))
	t.Logf("endpoints follow after %v", c.endpointsFollow(t))
}

// restarted brings c2 back, on another link and with another MAC. It makes
// itself known, as all runtimes see to: by ARP for its gateway.
func (c *comeAndGo) restarted(t *testing.T) {
	for range 3 {
		c2, err := c.h1.AddContainer()
		noError(t, err)
		ping(t, c2.NS, c.h1.Gateway(), lab.PingOptions{Count: 1})
		c.delivered(t, c2)
		t.Logf("endpoints follow after %v", c.endpointsFollow(t))
		c.delivered(t, c2)
		noError(t, c.h1.RemoveContainer(c2))
		t.Logf("endpoints follow after %v", c.endpointsFollow(t))
	}
}

// addressMoved gives an address of c1 to c3, which announces it, and back. In
// the end nobody has it, which nobody says.
func (c *comeAndGo) addressMoved(t *testing.T) {
	moving := &lab.Container{Addr: netip.MustParseAddr("172.245.0.9")}
	prefix := moving.Addr.String() + "/24"
	c1, c3 := c.h1.Containers[0], c.h1.Containers[len(c.h1.Containers)-1]
	run(t, c1.NS, "ip", "address", "add", prefix, "dev", "eth0")
	c.delivered(t, moving)
	for _, way := range []struct{ from, to *lab.Container }{{c1, c3}, {c3, c1}} {
		run(t, way.from.NS, "ip", "address", "del", prefix, "dev", "eth0")
		run(t, way.to.NS, "ip", "address", "add", prefix, "dev", "eth0")
		announce(t, way.to.NS, moving.Addr)
		t.Logf("endpoints follow after %v", c.endpointsFollow(t))
		c.delivered(t, moving)
	}
	run(t, c1.NS, "ip", "address", "del", prefix, "dev", "eth0")
}

// announce sends a gratuitous ARP request (RFC 5227, 3).
func announce(t *testing.T, n lab.Namespace, addr netip.Addr) {
	t.Helper()
	mac := macIn(t, n, "eth0")
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	send(t, n, "eth0", serialize(
		&layers.Ethernet{SrcMAC: mac, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPRequest,
			SourceHwAddress: mac, SourceProtAddress: addr.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: addr.AsSlice(),
		}))
}

// bridgeMACLowered adds a port whose MAC becomes the bridge's. Containers are
// told by being asked for their addresses; so the one that nobody has is found
// gone, once three requests a second apart had no answer.
func (c *comeAndGo) bridgeMACLowered(t *testing.T) {
	added, err := c.h1.AddContainer()
	noError(t, err)
	run(t, c.h1.NS, "ip", "link", "set", added.Veth, "address", "02:00:00:00:00:01")
	ping(t, added.NS, c.h1.Gateway(), lab.PingOptions{Count: 1})
	t.Logf("endpoints follow after %v", c.endpointsFollow(t))
	c.delivered(t, added)
	c.delivered(t, c.h1.Containers[0])
}

// bridgeMACGone takes that port away, and with it the MAC that the containers
// know their gateway by. Not all that they have sent until they are told can arrive.
// By themselves they would ask after eight seconds (NUD_DELAY and NUD_PROBE, net/core/neighbour.c), or later.
func (c *comeAndGo) bridgeMACGone(t *testing.T) {
	there := startFlow(t, c.h2.Containers[0], c.h1.Containers[0], time.Millisecond)
	noError(t, c.h1.RemoveContainer(c.h1.Containers[len(c.h1.Containers)-1]))
	t.Logf("endpoints follow after %v", c.endpointsFollow(t))
	there.more(100)
	r, err := there.end()
	noError(t, err)
	t.Logf("%d of %d lost", len(r.Lost), r.Sent)
	if len(r.Lost) > 4000 {
		t.Errorf("%d pings lost at 1,000/s: the containers were not told of the gateway's new MAC", len(r.Lost))
	}
	for _, container := range c.h1.Containers {
		c.delivered(t, container)
	}
}
