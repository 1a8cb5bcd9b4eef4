// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/bpfnet/bpfnet/test/lab"
)

// redirect does the least that programs can do for containers on veths: what a
// container sends goes out by the uplink, and what comes for it goes into it.
// There is no route, no check, no counter, no TTL. What this takes beyond host
// to host is what a veth takes.
func (s *site) redirect(context.Context) error {
	h1, h2 := s.lab.Hosts[0], s.lab.Hosts[1]
	return errors.Join(s.redirectOn(h1, h2.Addr), s.redirectOn(h2, h1.Addr))
}

func (s *site) redirectOn(h *lab.Host, peer netip.Addr) error {
	c := h.Containers[0]
	var mac net.HardwareAddr
	err := c.NS.Do(func() error {
		l, err := netlink.LinkByName(lab.Uplink)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	if err == nil {
		err = h.NS.Do(func() error {
			veth, vethErr := netlink.LinkByName(c.Veth)
			uplink, uplinkErr := netlink.LinkByName(lab.Uplink)
			if failed := errors.Join(vethErr, uplinkErr); failed != nil {
				return failed
			}
			in, out := veth.Attrs(), uplink.Attrs()
			return errors.Join(s.attach(in.Index, outwards(out.Index, peer)),
				s.attach(out.Index, inwards(in.Index, c.Addr, append(mac, in.HardwareAddr...))))
		})
	}
	if err != nil {
		return fmt.Errorf("redirect packets on %s: %w", h.Name, err)
	}
	return nil
}

// attach puts a program on an interface of the calling thread's namespace, until the site is closed.
func (s *site) attach(ifindex int, program asm.Instructions) error {
	l, err := attachTCX(ifindex, program)
	if err == nil {
		s.links = append(s.links, l)
	}
	return err
}

func attachTCX(ifindex int, program asm.Instructions) (link.Link, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "redirect", Type: ebpf.SchedCLS, License: "GPL", Instructions: program})
	if err != nil {
		return nil, err
	}
	defer p.Close() //nolint:errcheck // the link holds it
	return link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress})
}

// tcx tells whether the kernel attaches programs so.
func tcx() error {
	err := inNewNamespace(func() error {
		const loopback = 1 // its ifindex in every namespace
		l, err := attachTCX(loopback, pass())
		if err != nil {
			return err
		}
		return l.Close()
	})
	if err != nil {
		return fmt.Errorf("attach by tcx (kernel 6.6): %w", err)
	}
	return nil
}

// pass leaves a packet to whoever is next: TCX_NEXT of include/uapi/linux/bpf.h.
func pass() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, -1).WithSymbol("pass"), asm.Return()}
}

// ipv4Only is the beginning of a program for IPv4 packets. It keeps the context in R6.
func ipv4Only() asm.Instructions {
	const protocol = 16 // in struct __sk_buff
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R0, asm.R1, protocol, asm.Word),
		asm.JNE.Imm(asm.R0, int32(binary.NativeEndian.Uint16([]byte{0x08, 0x00})), "pass"),
	}
}

// outwards sends IPv4 packets to a neighbour.
func outwards(uplink int, peer netip.Addr) asm.Instructions {
	const params = 20 // struct bpf_redir_neigh: family, address
	p := ipv4Only()
	p = append(p, onStack(append(binary.NativeEndian.AppendUint32(nil, 2), append(peer.AsSlice(), make([]byte, 12)...)...))...) // AF_INET
	p = append(p,
		asm.Mov.Imm(asm.R1, int32(uplink)),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -params),
		asm.Mov.Imm(asm.R3, params),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRedirectNeigh.Call(),
		asm.Return())
	return append(p, pass()...)
}

// inwards hands the packets for an address to the other end of a veth, with
// these two MACs, destination first.
func inwards(veth int, addr netip.Addr, macs []byte) asm.Instructions {
	const destination = 14 + 16 // of the IPv4 header, in the frame
	p := append(ipv4Only(),
		asm.LoadAbs(destination, asm.Word),
		asm.JNE.Imm32(asm.R0, int32(binary.BigEndian.Uint32(addr.AsSlice())), "pass"))
	p = append(p, onStack(macs)...)
	p = append(p,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -int32(len(macs))),
		asm.Mov.Imm(asm.R4, int32(len(macs))),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.Mov.Imm(asm.R1, int32(veth)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirectPeer.Call(),
		asm.Return())
	return append(p, pass()...)
}

// onStack stores bytes, whole words of them, at the stack's beginning.
func onStack(b []byte) (p asm.Instructions) {
	for at := 0; at < len(b); at += 4 {
		word := int32(binary.NativeEndian.Uint32(b[at:]))
		p = append(p, asm.StoreImm(asm.RFP, int16(at-len(b)), int64(word), asm.Word))
	}
	return p
}
