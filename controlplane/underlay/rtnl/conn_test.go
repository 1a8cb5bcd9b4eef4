// SPDX-License-Identifier: Apache-2.0

package rtnl

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestConn asks the kernel for what any process may: its loopback device, and one that there is not.
func TestConn(t *testing.T) {
	c, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	header := make([]byte, unix.SizeofIfInfomsg)
	for range 2 {
		names := map[string]bool{}
		if _, err = List("links", func() ([]int, error) {
			return nil, c.Request(unix.RTM_GETLINK, 0, header...).Dump(func(msg []byte) {
				Attributes(msg, unix.SizeofIfInfomsg, func(kind uint16, data []byte) {
					if kind == unix.IFLA_IFNAME {
						names[unix.ByteSliceToString(data)] = true
					}
				})
			})
		}); err != nil {
			t.Fatal(err)
		}
		if !names["lo"] {
			t.Errorf("links %v, want lo among them", names)
		}
		err = c.Request(unix.RTM_GETLINK, 0, header...).Attr(unix.IFLA_IFNAME, []byte("nosuch\x00")...).Do()
		if !errors.Is(err, unix.ENODEV) {
			t.Errorf("error %v of a link that there is not, want %v", err, unix.ENODEV)
		}
	}
}

// message is a netlink message as the kernel lays it out.
func message(kind, flags uint16, seq uint32, data ...byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	return append(append(b, 0, 0, 0, 0), data...)
}

func TestConnReads(t *testing.T) {
	denied := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
	entry := message(unix.RTM_NEWROUTE, unix.NLM_F_MULTI, 7, 1, 2, 3, 4)
	for name, tc := range map[string]struct {
		datagram          []byte
		done, interrupted bool
		err               error
		entries           int
	}{
		"acknowledged":      {message(unix.NLMSG_ERROR, 0, 7, 0, 0, 0, 0), true, false, nil, 0},
		"refused":           {message(unix.NLMSG_ERROR, 0, 7, denied...), true, false, unix.EPERM, 0},
		"to another":        {message(unix.NLMSG_ERROR, 0, 6, denied...), false, false, nil, 0},
		"entries":           {append(entry, entry...), false, false, nil, 2},
		"entries, and done": {append(entry, message(unix.NLMSG_DONE, 0, 7)...), true, false, nil, 1},
		"interrupted":       {append(message(unix.RTM_NEWROUTE, unix.NLM_F_DUMP_INTR, 7), message(unix.NLMSG_DONE, 0, 7)...), true, true, nil, 1},
		"cut":               {entry[:len(entry)-1], true, false, errMalformed, 0},
	} {
		entries := 0
		c := &Conn{seq: 7}
		done, interrupted, err := c.read(tc.datagram, func([]byte) { entries++ })
		if done != tc.done || interrupted != tc.interrupted || !errors.Is(err, tc.err) || entries != tc.entries {
			t.Errorf("%s: done %t, interrupted %t, error %v, %d entries", name, done, interrupted, err, entries)
		}
	}
}

func FuzzConnReads(f *testing.F) {
	f.Add(message(unix.RTM_NEWROUTE, 0, 7, 8, 0, 1, 0, 1, 2, 3, 4))
	f.Add(message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, seen := &Conn{seq: 7}, 0
		_, _, err := c.read(b, func(msg []byte) {
			seen += len(msg)
			Attributes(msg, 0, func(_ uint16, data []byte) { seen -= len(data) })
		})
		if seen < 0 || errors.Is(err, netlink.ErrDumpInterrupted) {
			t.Errorf("%d bytes more in attributes than in messages; error %v", -seen, err)
		}
	})
}
