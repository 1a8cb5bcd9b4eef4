// SPDX-License-Identifier: Apache-2.0

//go:build root

package firewall

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	toPeerPort = 8080 // of the node, published for the peer's container
	toPodPort  = 8081 // and for its own
)

// publish does with two of the node's ports what kube-proxy and Docker do.
func (w *world) publish(variant string) {
	w.t.Helper()
	w.iptables(variant,
		"-t nat -A PREROUTING -p udp --dport 8080 -j DNAT --to-destination $E",
		"-t nat -A PREROUTING -p udp --dport 8081 -j DNAT --to-destination $D",
		"-t nat -A POSTROUTING -s $C -d $C -p udp --dport $P -j MASQUERADE",
	)
}

// flow is a datagram and the source its receiver is to see.
type flow struct {
	name   string
	from   place
	asked  netip.AddrPort
	server place
	source netip.Prefix
}

func (w *world) flows() []flow {
	container, peer, wan, a := w.container, w.peer, w.node.by(w.wan0), w.addresses
	host, pod0 := w.node.by(a.eth0), w.node.by(a.gateway)
	peerHost, peerGateway := peer.by(a.peer), peer.by(a.peerGateway)
	asked := func(p place, port uint16) netip.AddrPort { return netip.AddrPortFrom(p.addr, port) }
	return []flow{
		{"container to internet", container, w.internet.service(), w.internet, a.wan0},
		{"container to host of another node", container, peerHost.service(), peerHost, a.eth0},
		{"container to container of another node", container, peer.service(), peer, a.container},
		{"container to overlay address of another node", container, peerGateway.service(), peerGateway, a.container},
		{"host to container of another node", host, peer.service(), peer, a.eth0},
		{"overlay address to container of another node", pod0, peer.service(), peer, a.gateway},
		{"container of another node to container", peer, container.service(), container, a.peerContainer},
		{"host of another node to container", peerHost, container.service(), container, a.peer},
		{"host to container", host, container.service(), container, a.eth0},
		{"internet to published container of another node", w.internet, asked(wan, toPeerPort), peer, a.eth0},
		{"internet to published container", w.internet, asked(wan, toPodPort), container, a.internet},
		{"container to itself as published", container, asked(host, toPodPort), container, a.gateway},
	}
}

func (w *world) checkFlows() {
	w.t.Helper()
	for _, f := range w.flows() {
		if seen := w.source(f.from, f.asked, f.server); seen != f.source.Addr() {
			w.t.Errorf("%s: the receiver saw %v, want %v", f.name, seen, f.source.Addr())
		}
	}
}

func TestMasquerade(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.publish("-nft")
		if seen := w.source(w.container, w.internet.service(), w.internet); seen != w.container.addr {
			w.t.Fatalf("without rules the internet saw %v, want the container", seen)
		}
		w.ensure(w.rules())
		w.checkFlows()
	})
}

// Docker's own rule, which masquerades what leaves its bridge for the overlay, and those
// that flanneld left behind for an earlier subnet: set up before ours and after.
func TestMasqueradeBesideOthers(t *testing.T) {
	others := map[string][]string{
		"docker": {"-t nat -A POSTROUTING -s $S ! -o pod0 -j MASQUERADE"},
		"flannel": {
			"-t nat -N FLANNEL-POSTRTG",
			"-t nat -A POSTROUTING -j FLANNEL-POSTRTG",
			"-t nat -A FLANNEL-POSTRTG -s $O -d $N -j RETURN",
			"-t nat -A FLANNEL-POSTRTG -s $N -d $O -j RETURN",
			"-t nat -A FLANNEL-POSTRTG -s $N -j MASQUERADE",
		},
	}
	inVariants(t, func(t *testing.T, variant string) {
		for name, lines := range others {
			t.Run(name, func(t *testing.T) {
				inWorlds(t, func(w *world) {
					w.publish(variant)
					w.iptables(variant, lines...)
					if seen := w.source(w.container, w.peer.service(), w.peer); seen != w.eth0.Addr() {
						w.t.Fatalf("%s alone: the peer saw %v: the rules do not do what they are here for", name, seen)
					}
					w.ensure(w.rules())
					w.checkFlows()
				})
				inWorlds(t, func(w *world) {
					w.ensure(w.rules())
					w.iptables(variant, lines...)
					w.publish(variant)
					w.checkFlows()
				})
			})
		}
	})
}

// kube-proxy marks what it will masquerade; the mark's other bits are others'.
func TestKubeProxyMark(t *testing.T) {
	for mark, masqueraded := range map[string]bool{"0x4000": false, "0x4001": false, "0x8001": true} {
		t.Run(mark, func(t *testing.T) {
			inWorlds(t, func(w *world) {
				w.iptables("-nft", "-t mangle -A PREROUTING -j MARK --set-mark "+mark)
				w.ensure(w.rules())
				seen := w.source(w.container, w.internet.service(), w.internet)
				if (seen == w.wan0.Addr()) != masqueraded {
					w.t.Errorf("the internet saw %v", seen)
				}
			})
		})
	}
}

// Ports are random only where asked for.
func TestRandomFully(t *testing.T) {
	inWorlds(t, func(w *world) {
		r := w.rules()
		for _, r.RandomFully = range []bool{true, false} {
			w.ensure(r)
			const tries = 3 // a random port may be the one sent from, and that one may be in use for an earlier datagram
			kept := 0
			for range tries {
				seen, sent, err := w.talk(w.container, w.internet.service(), w.internet, answerLimit)
				w.must(err)
				if seen.Addr() != w.wan0.Addr() {
					w.t.Errorf("RandomFully %v: the internet saw %v", r.RandomFully, seen)
				}
				if seen.Port() == sent.Port() {
					kept++
				}
			}
			if (kept > tries/2) == r.RandomFully {
				w.t.Errorf("RandomFully %v: %d of %d ports were kept", r.RandomFully, kept, tries)
			}
		}
	})
}

// Multicast keeps its source. The kernel forwards none without a routing
// daemon, but what the node sends by an overlay address takes the same way.
func TestMulticastKept(t *testing.T) {
	inWorlds(t, func(w *world) {
		w.ensure(w.rules())
		w.run("ip", "route", "replace", "multicast", w.group.WithZone("").String(), "dev", "wan0", "table", "local")
		var server *net.UDPConn
		w.must(w.in(w.internet, func() error {
			far, err := net.InterfaceByName("far0")
			if err != nil {
				return err
			}
			server, err = net.ListenMulticastUDP("udp", far, &net.UDPAddr{IP: w.group.AsSlice(), Port: servicePort})
			return err
		}))
		defer server.Close()
		d := net.Dialer{
			LocalAddr: &net.UDPAddr{IP: w.gateway.Addr().AsSlice()},
			Control: func(_, _ string, c syscall.RawConn) error { // else it leaves by its source's device
				var bound error
				err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), "wan0") })
				return errors.Join(err, bound)
			},
		}
		client, err := d.Dial("udp", netip.AddrPortFrom(w.group, servicePort).String())
		w.must(err)
		defer client.Close()
		_, err = client.Write([]byte("all"))
		w.must(err)
		w.must(server.SetDeadline(time.Now().Add(answerLimit)))
		_, seen, err := server.ReadFromUDPAddrPort(make([]byte, 16))
		if err != nil || seen.Addr().Unmap().WithZone("") != w.gateway.Addr() {
			w.t.Errorf("the group saw %v, error %v; want %v", seen, err, w.gateway.Addr())
		}
	})
}

// ensure calls Ensure, which has to write something, and again, which must not.
func (w *world) ensure(r Rules) {
	w.t.Helper()
	if changed, err := Ensure(r); err != nil || !changed {
		w.t.Fatalf("Ensure: changed %v, error %v; want a change", changed, err)
	}
	w.unchanged(r)
}
