// SPDX-License-Identifier: Apache-2.0

package nat

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nftablesTable names a table that translates destinations, if there is one.
func (f *Finder) nftablesTable() (string, error) {
	generation, err := generation()
	if absent(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read nftables' generation: %w", err)
	}
	if generation == f.generation {
		return f.table, nil
	}
	table, err := translatingTable()
	if err != nil {
		return "", fmt.Errorf("read nftables' rules: %w", err)
	}
	f.generation, f.table = generation, table
	return table, nil
}

// absent reports whether the error is that of a kernel without nf_tables.
func absent(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// generation counts nftables' transactions, from 1 on.
func generation() (uint32, error) {
	replies, err := ask(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
	})
	if err != nil {
		return 0, err
	}
	for _, reply := range replies {
		attributes, err := attributes(reply)
		if err != nil {
			return 0, err
		}
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_ID {
				return attributes.Uint32(), attributes.Err()
			}
		}
	}
	return 0, errors.New("none told")
}

// nfgenmsg is what begins each message of nfnetlink, and how long it is.
const nfgenmsg = 4

// ask sends a request to nfnetlink, its header of zeroes (any family) in front,
// and returns the answers.
func ask(m netlink.Message) (_ []netlink.Message, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	m.Data = append(make([]byte, nfgenmsg), m.Data...)
	return conn.Execute(m)
}

func attributes(m netlink.Message) (*netlink.AttributeDecoder, error) {
	if len(m.Data) < nfgenmsg {
		return nil, fmt.Errorf("answer of %d bytes", len(m.Data))
	}
	d, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err == nil {
		d.ByteOrder = binary.BigEndian
	}
	return d, err
}

func translatingTable() (string, error) {
	conn, err := nftables.New()
	if err != nil {
		return "", err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return "", err
	}
	type table struct {
		family nftables.TableFamily
		name   string
	}
	nat := map[table]bool{}
	for _, c := range chains {
		if c.Type == nftables.ChainTypeNAT {
			nat[table{c.Table.Family, c.Table.Name}] = true
		}
	}
	for _, c := range chains { // also those that a chain of type nat jumps to
		if !nat[table{c.Table.Family, c.Table.Name}] {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if errors.Is(err, unix.ENOENT) {
			continue // it went in the meantime
		}
		if err != nil {
			return "", fmt.Errorf("chain %s of table %s: %w", c.Name, c.Table.Name, err)
		}
		for _, r := range rules {
			if translates(r) {
				return fmt.Sprintf("chain %s of nftables' table %s", c.Name, c.Table.Name), nil
			}
		}
	}
	return "", nil
}

// translates reports whether a rule translates destinations, as nft or as iptables writes it.
func translates(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.NAT:
			if e.Type == expr.NATTypeDestNAT {
				return true
			}
		case *expr.Target:
			if e.Name == "DNAT" || e.Name == "NETMAP" {
				return true
			}
		}
	}
	return false
}

// groupNFTables is NFNLGRP_NFTABLES of include/uapi/linux/netfilter/nfnetlink.h.
const groupNFTables = 7

// Watch calls changed whenever nftables' rules may have changed, until ctx ends.
func Watch(ctx context.Context, changed func()) error {
	conn, err := listen()
	if absent(err) {
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	return follow(ctx, conn, changed)
}

func listen() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (groupNFTables - 1)})
}

func follow(ctx context.Context, conn *netlink.Conn, changed func()) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	for {
		_, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS): // which says that some were lost
			return errors.Join(fmt.Errorf("watch nftables: %w", err), conn.Close())
		}
		changed()
	}
}
