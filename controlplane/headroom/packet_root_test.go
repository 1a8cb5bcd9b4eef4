// SPDX-License-Identifier: Apache-2.0

//go:build root

package headroom

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfnet/bpfnet/test/nstest"
)

const patience = 10 * time.Second

// longest is what the datapath puts in front of an IP packet at most: IPv6, UDP, VXLAN and Ethernet.
const longest = 40 + 8 + 8 + 14

// TestHeadroom: a datagram of a container has room for the longest header where
// its bridge has the device, and only there; also of a container that comes later.
func TestHeadroom(t *testing.T) {
	nstest.Enter(t)
	bridge := addBridge(t, "br1", "c1")
	ip(t, "address add 172.245.0.2/24 dev peer-c1")
	ip(t, "neigh add 172.245.0.1 lladdr 02:00:00:00:00:01 dev peer-c1")
	room := watchRoom(t)
	check := func(when string, want bool) {
		t.Helper()
		if got := room(); got >= longest != want {
			t.Errorf("%s: %d bytes before a datagram's Ethernet header, want %d or more: %t", when, got, longest, want)
		}
	}
	check("before", false)
	ensure(t, true, bridge)
	check("with the device", true)
	ip(t, "link set c1 nomaster")
	check("out of the bridge", false)
	ip(t, "link set c1 master br1")
	check("back in it", true)
	ensure(t, true)
	check("without the device", false)
}

// watchRoom returns a function that sends a datagram from 172.245.0.2 and tells the bytes
// in front of its Ethernet header as it is handed to the driver.
func watchRoom(t *testing.T) func() int {
	t.Helper()
	const payload = 1237 // tells it from others' packets
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = seen.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "room", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "net_dev_start_xmit", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 0, asm.DWord), // struct sk_buff *
			asm.LoadMem(asm.R2, asm.R6, field(t, "len"), asm.Word),
			asm.JNE.Imm(asm.R2, 14+20+8+payload, "out"),
			asm.LoadMem(asm.R7, asm.R6, field(t, "data"), asm.DWord),
			asm.LoadMem(asm.R2, asm.R6, field(t, "head"), asm.DWord),
			asm.Sub.Reg(asm.R7, asm.R2),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, seen.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return(),
		},
	})
	if err != nil {
		t.Fatalf("load program: %+v", err)
	}
	defer program.Close()
	l, err := link.AttachTracing(link.TracingOptions{Program: program, AttachType: ebpf.AttachTraceRawTp})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(172, 245, 0, 2)}, &net.UDPAddr{IP: net.IPv4(172, 245, 0, 1), Port: discardPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func() int {
		t.Helper()
		const none = ^uint64(0)
		if err := seen.Put(uint32(0), none); err != nil {
			t.Fatal(err)
		}
		room := none
		for deadline := time.Now().Add(patience); room == none; { // a device that is just up drops at first
			if _, err := conn.Write(make([]byte, payload)); err != nil { // which hands it to the driver
				t.Fatal(err)
			}
			if err := seen.Lookup(uint32(0), &room); err != nil || time.Now().After(deadline) {
				t.Fatalf("no datagram was seen; error %v", err)
			}
		}
		return int(room)
	}
}

// field is the offset of a member of struct sk_buff, in bytes.
func field(t *testing.T, name string) int16 {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var skb *btf.Struct
	if err := spec.TypeByName("sk_buff", &skb); err != nil {
		t.Fatal(err)
	}
	for _, m := range skb.Members {
		if m.Name == name {
			return int16(m.Offset.Bytes())
		}
	}
	t.Fatalf("struct sk_buff has no member %s", name)
	return 0
}
