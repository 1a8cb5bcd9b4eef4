// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// relistPause is waited before a listing that has to be made again, so that a
// kernel that changes faster than it can be read leaves time for other work.
const relistPause = 50 * time.Millisecond

// listing is one table of the kernel to be dumped.
type listing struct {
	what    string
	request int
	reply   uint16
	header  []byte // struct ifinfomsg, ifaddrmsg, rtmsg or ndmsg, and attributes
}

func linksAndAddresses(family uint8) []listing {
	return []listing{
		{"links", unix.RTM_GETLINK, unix.RTM_NEWLINK, append(make([]byte, unix.SizeofIfInfomsg), skipStats()...)},
		{"addresses", unix.RTM_GETADDR, unix.RTM_NEWADDR, familyHeader(family, unix.SizeofIfAddrmsg)},
	}
}

func routes(family uint8) listing {
	return listing{"routes", unix.RTM_GETROUTE, unix.RTM_NEWROUTE, familyHeader(family, unix.SizeofRtMsg)}
}

func listings(family uint8) []listing {
	return append(linksAndAddresses(family), []listing{
		routes(family),
		{"neighbours", unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, familyHeader(family, unix.SizeofNdMsg)},
		{"bridge FDBs", unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, familyHeader(unix.AF_BRIDGE, unix.SizeofNdMsg)},
	}...)
}

// familyHeader is a request header that asks for one address family: all of
// them begin with it.
func familyHeader(family uint8, size int) []byte {
	h := make([]byte, size)
	h[0] = family
	return h
}

// skipStats is the attribute that spares the kernel the links' counters.
func skipStats() []byte {
	const rtextFilterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS, linux/rtnetlink.h
	return nl.NewRtAttr(unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, rtextFilterSkipStats)).Serialize()
}

// list reads all of the kernel's tables.
func list(ctx context.Context, subnet netip.Prefix) (*tables, error) {
	return listThese(ctx, subnet, listings(family(subnet)))
}

func listThese(ctx context.Context, subnet netip.Prefix, which []listing) (*tables, error) {
	t := newTables(subnet)
	for _, l := range which {
		msgs, err := l.dump(ctx)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", l.what, err)
		}
		for _, data := range msgs {
			if e, ok := parse(l.reply, data); ok {
				t.apply(e)
			}
		}
	}
	t.doubt = false // routes of one metric are listed in their order
	return t, nil
}

// dump reads one table, again for as long as it changes while it is read.
func (l listing) dump(ctx context.Context) ([][]byte, error) {
	for {
		req := nl.NewNetlinkRequest(l.request, unix.NLM_F_DUMP)
		req.AddRawData(l.header)
		msgs, err := req.Execute(unix.NETLINK_ROUTE, l.reply)
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			return msgs, err
		}
		if err := pause(ctx, relistPause); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func family(subnet netip.Prefix) uint8 {
	if subnet.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
