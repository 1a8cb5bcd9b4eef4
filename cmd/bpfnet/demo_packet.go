// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bpfnet/bpfnet/test/lab"
)

const (
	ethernetLen = 14
	hexRow      = 16 // bytes of a row
)

// part is a stretch of a packet: a header, or the payload.
type part struct {
	bytes []byte
	notes []string // beside the rows
	style style
}

// partsOf cuts a packet into its headers and its payload. The outer ones are
// the first added bytes behind the Ethernet header.
func partsOf(p lab.Packet, added int) []part {
	var parts []part
	offset := 0
	for _, layer := range lab.Decode(p).Layers {
		header := part{bytes: layer.LayerContents(), notes: notesOf(layer), style: green}
		switch {
		case offset == 0:
			header.style = yellow
		case offset < ethernetLen+added:
			header.style = cyan
		case layer.LayerType() == gopacket.LayerTypePayload:
			header.style = dim
		}
		parts = append(parts, header)
		offset += len(header.bytes)
	}
	return parts
}

// notesOf is a layer in words, a line each.
func notesOf(layer gopacket.Layer) []string {
	switch l := layer.(type) {
	case *layers.Ethernet:
		return []string{fmt.Sprintf("Ethernet %s >", l.SrcMAC), fmt.Sprintf("         %s", l.DstMAC)}
	case *layers.IPv4:
		df := ""
		if l.Flags&layers.IPv4DontFragment != 0 {
			df = ", DF"
		}
		return []string{
			fmt.Sprintf("IPv4     %s > %s", l.SrcIP, l.DstIP),
			fmt.Sprintf("         ttl %d, %v, length %d%s", l.TTL, l.Protocol, l.Length, df),
		}
	case *layers.UDP:
		checksum := ""
		if l.Checksum == 0 {
			checksum = ", sum 0"
		}
		return []string{fmt.Sprintf("UDP      %d > %d, length %d%s", uint16(l.SrcPort), uint16(l.DstPort), l.Length, checksum)}
	case *layers.VXLAN:
		return []string{fmt.Sprintf("VXLAN    flags %#02x, VNI %d", l.Contents[0], l.VNI)}
	case *layers.ICMPv4:
		return []string{fmt.Sprintf("ICMP     %s, id %d, seq %d", l.TypeCode, l.Id, l.Seq)}
	case *gopacket.Payload:
		return []string{fmt.Sprintf("payload  %d bytes", len(l.Payload()))}
	}
	return []string{layer.LayerType().String()}
}

// hexdump prints parts, each from a new row on, what they are beside them.
func (d *demo) hexdump(parts []part) {
	offset := 0
	for _, p := range parts {
		rows := slices.Collect(slices.Chunk(p.bytes, hexRow))
		for i := range max(len(rows), len(p.notes)) {
			row, note, at := "", "", ""
			if i < len(rows) {
				row, at = fmt.Sprintf("% x", rows[i]), fmt.Sprintf("%04x", offset+i*hexRow)
			}
			if i < len(p.notes) {
				note = p.notes[i]
			}
			d.row(at, row, note, p.style)
		}
		offset += len(p.bytes)
	}
}

func (d *demo) row(at, row, note string, s style) {
	line := fmt.Sprintf("  %4s  %s  %s", at, d.paint.as(s, fmt.Sprintf("%-*s", 3*hexRow-1, row)), note)
	d.printf("%s\n", strings.TrimRight(line, " "))
}

// template prints a host entry's header at its place in the packet. What
// differs there was filled in for this packet: dots.
func (d *demo) template(header []byte, packet lab.Packet) {
	sent := packet.Data[ethernetLen : ethernetLen+len(header)]
	for at := 0; at < len(header); at += hexRow {
		var cells []string
		for i := at; i < min(at+hexRow, len(header)); i++ {
			cell := ".."
			if header[i] == sent[i] {
				cell = fmt.Sprintf("%02x", header[i])
			}
			cells = append(cells, cell)
		}
		d.row(fmt.Sprintf("%04x", ethernetLen+at), strings.Join(cells, " "), "", cyan)
	}
}
