// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

const (
	tableName = "bpfnet"
	chainName = "postrouting"
)

// chainPriority is before all that stand at the usual place: iptables' nat
// table, and the tables of most others.
var chainPriority = nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 10)

// ensureMasquerade makes the table hold the rules, or be gone where r does not masquerade.
func (f family) ensureMasquerade(r Rules) (changed bool, err error) {
	var want []rule
	if r.Masquerade {
		want = f.masqueradeRules(r)
	}
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("reach nftables over netlink: %w", err)
	}
	there, same, err := f.compare(conn, want)
	if err != nil {
		return false, fmt.Errorf("read nftables table %s: %w", tableName, err)
	}
	if same {
		return false, nil
	}
	f.replace(conn, there, want)
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("write nftables table %s (has the kernel NFT_NAT and NFT_MASQ, and does nobody else own the table?): %w", tableName, err)
	}
	return true, nil
}

// replace queues one transaction after which the table holds just these rules.
func (f family) replace(conn *nftables.Conn, there bool, want []rule) {
	table := f.table()
	if there {
		conn.DelTable(table)
	}
	if len(want) == 0 {
		return
	}
	conn.AddTable(table)
	chain := conn.AddChain(f.chain())
	for _, w := range want {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: w.exprs, UserData: w.userData()})
	}
}

// compare says whether the table is there, and whether it is just as wanted.
func (f family) compare(conn *nftables.Conn, want []rule) (there, same bool, err error) {
	table, err := f.find(conn, tableName)
	if err != nil || table == nil {
		return false, len(want) == 0, err
	}
	if len(want) == 0 || table.Flags != 0 { // a flag: dormant, or another program's
		return true, false, nil
	}
	chains, err := conn.ListChainsOfTableFamily(f.nft)
	if err != nil {
		return true, false, err
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != tableName })
	if len(chains) != 1 || !f.isChain(chains[0]) {
		return true, false, nil
	}
	rules, err := conn.GetRules(f.table(), f.chain())
	if err != nil {
		return true, false, err
	}
	same = slices.EqualFunc(rules, want, func(have *nftables.Rule, w rule) bool {
		return f.sameRule(have, w)
	})
	return true, same, nil
}

// find returns the table of that name, nil if there is none.
func (f family) find(conn *nftables.Conn, name string) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(f.nft)
	if errors.Is(err, unix.EINVAL) { // nfnetlink_rcv_msg: nf_tables is not in the kernel
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == name && t.Family == f.nft })
	if i < 0 {
		return nil, nil
	}
	return tables[i], nil
}

func (f family) table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: f.nft}
}

func (f family) chain() *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name:     chainName,
		Table:    f.table(),
		Type:     nftables.ChainTypeNAT,
		Hooknum:  nftables.ChainHookPostrouting,
		Priority: chainPriority,
		Policy:   &accept,
	}
}

func (f family) isChain(have *nftables.Chain) bool {
	want := f.chain()
	return have.Name == want.Name && have.Type == want.Type &&
		equal(have.Hooknum, want.Hooknum) && equal(have.Priority, want.Priority) && equal(have.Policy, want.Policy)
}

func equal[T comparable](a, b *T) bool {
	return a != nil && b != nil && *a == *b
}

// sameRule compares as netlink writes it: what the kernel answers and what it
// was given differ in attributes that have no meaning.
func (f family) sameRule(have *nftables.Rule, want rule) bool {
	return bytes.Equal(have.UserData, want.userData()) && slices.EqualFunc(have.Exprs, want.exprs, f.sameExpr)
}

func (f family) sameExpr(a, b expr.Any) bool {
	x, errX := expr.Marshal(byte(f.nft), a)
	y, errY := expr.Marshal(byte(f.nft), b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func (r rule) userData() []byte {
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}
