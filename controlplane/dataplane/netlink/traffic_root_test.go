// SPDX-License-Identifier: Apache-2.0

//go:build root

package netlink

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/test/nstest"
)

// inAnother runs f in a network namespace of its own that a veth joins with this one.
func inAnother(t *testing.T, here, there string, f func() error) func(func() error) error {
	t.Helper()
	var ns netns.NsHandle
	run := func(f func() error) error {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := netns.Set(ns); err != nil {
				done <- err
				return
			}
			done <- f()
		}()
		return <-done
	}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		ns, err = netns.New()
		made <- err
	}()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(<-made)
	t.Cleanup(func() { _ = ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "eth0", 1500
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	up := func(addr string) error {
		a, err := netlink.ParseAddr(addr)
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	}
	must(up(here))
	must(run(func() error { return up(there) }))
	must(run(f))
	return run
}

// node6 makes host n of the lab, with the other one as its peer, out of the namespace it is called in.
// Its container is an address of lo.
func node6(n, other int, macs map[int]topology.MAC) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	self := peer6(n, topology.EncapVXLAN, 0)
	container := &netlink.Addr{IPNet: &net.IPNet{IP: container6(n).AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
	if err = netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if err = netlink.AddrAdd(lo, container); err != nil {
		return err
	}
	uplink, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	s := topology.Self{
		Subnet: self.Subnet, Node: self.Node, Uplink: uplink.Attrs().Index, Encap: topology.EncapVXLAN,
		VTEP: topology.VTEP{MAC: macs[n]}, VNI: 1, Port: 8472, MTU: 1430,
	}
	dev, err := EnsureOverlay(s, Kernel)
	if err != nil {
		return err
	}
	p := peer6(other, topology.EncapVXLAN, s.Uplink)
	p.VTEP.MAC = macs[other]
	if _, err = new(View).Apply(topology.State{Self: s, Peers: []topology.Peer{p}}, dev); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); !addressesRouted(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("an address has no route")
		}
	}
	return nil
}

func container6(n int) netip.Addr { return peer6(n, topology.EncapNone, 0).Subnet.Addr().Next().Next() }

// Two kernels carry each other's packets over IPv6, in both directions; and take one whose
// outer UDP checksum is zero, as the eBPF programs of a node may send it.
func TestVXLAN6CarriesPackets(t *testing.T) {
	nstest.Enter(t)
	macs := map[int]topology.MAC{1: {0xc6, 6, 0, 0, 0, 1}, 2: {0xc6, 6, 0, 0, 0, 2}}
	inPeer := inAnother(t, "2001:db8:32::245/64", "2001:db8:32::246/64", func() error { return node6(2, 1, macs) })
	if err := node6(1, 2, macs); err != nil {
		t.Fatal(err)
	}
	settle(t) // until then the veth drops what it is given
	here, err := net.ListenUDP("udp", &net.UDPAddr{IP: container6(1).AsSlice(), Port: 9000})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	var there *net.UDPConn
	if err := inPeer(func() (err error) {
		there, err = net.ListenUDP("udp", &net.UDPAddr{IP: container6(2).AsSlice(), Port: 9000})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	expect := func(what string, at *net.UDPConn, from netip.Addr, text string) {
		t.Helper()
		if err := at.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, source, err := at.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != text || source.Addr() != from {
			t.Fatalf("%s: %q from %s, error %v, want %q from %s", what, buf[:n], source, err, text, from)
		}
	}
	if _, err := here.WriteToUDPAddrPort([]byte("ask"), netip.AddrPortFrom(container6(2), 9000)); err != nil {
		t.Fatal(err)
	}
	expect("there", there, container6(1), "ask")
	if _, err := there.WriteToUDPAddrPort([]byte("answer"), netip.AddrPortFrom(container6(1), 9000)); err != nil {
		t.Fatal(err)
	}
	expect("and back", here, container6(2), "answer")
	if err := inPeer(func() error { return sendUnsummed(macs, "unsummed") }); err != nil {
		t.Fatal(err)
	}
	expect("without a checksum", here, container6(2), "unsummed")
}

// sendUnsummed sends a VXLAN packet of host 2's container to host 1's by a socket that sends no checksums.
func sendUnsummed(macs map[int]topology.MAC, text string) error {
	eth := &layers.Ethernet{SrcMAC: hardwareAddr(macs[2]), DstMAC: hardwareAddr(macs[1]), EthernetType: layers.EthernetTypeIPv6}
	ip := &layers.IPv6{Version: 6, HopLimit: 63, NextHeader: layers.IPProtocolUDP, SrcIP: container6(2).AsSlice(), DstIP: container6(1).AsSlice()}
	udp := &layers.UDP{SrcPort: 9000, DstPort: 9000}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		return err
	}
	frame := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.VXLAN{ValidIDFlag: true, VNI: 1}, eth, ip, udp, gopacket.Payload(text)); err != nil {
		return err
	}
	conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: peer6(1, topology.EncapNone, 0).Node.AsSlice(), Port: 8472})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	const noCheck6 = 101 // UDP_NO_CHECK6_TX, include/uapi/linux/udp.h
	var set error
	if err = raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), unix.IPPROTO_UDP, noCheck6, 1) }); err != nil {
		return err
	}
	if set != nil {
		return os.NewSyscallError("setsockopt", set)
	}
	_, err = conn.Write(frame.Bytes())
	return err
}
