// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// leaseRow is a lease as `lease list` shows it; what is not known is left out.
type leaseRow struct {
	Key      string         `json:"key"` // under PREFIX/subnets/
	Subnet   netip.Prefix   `json:"subnet,omitzero"`
	Subnet6  netip.Prefix   `json:"subnet6,omitzero"`
	Node     netip.Addr     `json:"node,omitzero"` // on the underlay
	Node6    netip.Addr     `json:"node6,omitzero"`
	Backend  topology.Encap `json:"backend,omitempty"`
	VNI      *uint32        `json:"vni,omitempty"` // of vxlan alone
	VTEPMAC  string         `json:"vtep_mac,omitempty"`
	VTEPMAC6 string         `json:"vtep_mac6,omitempty"`
	Reserved bool           `json:"reserved"`
	Pending  bool           `json:"pending"`          // reserved, and its node has not come yet
	Expires  time.Time      `json:"expires,omitzero"` // in UTC; never where it is reserved
	Problem  string         `json:"problem,omitempty"`
}

func newLeaseListCommand(o *store.Options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the leases",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return fmt.Errorf("unknown output format %q: table or json", output)
			}
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				rows, err := leaseRows(ctx, s)
				if err != nil {
					return err
				}
				if output == "table" {
					return printLeases(cmd.OutOrStdout(), rows, time.Now())
				}
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(rows)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func leaseRows(ctx context.Context, s *store.Store) ([]leaseRow, error) {
	records, err := s.Records(ctx)
	if err != nil {
		return nil, err
	}
	c, err := s.Config(ctx)
	if err != nil && !errors.Is(err, store.ErrNoConfig) && !errors.Is(err, store.ErrBadConfig) {
		return nil, err
	}
	of := map[netip.Addr]string{} // the first lease of each node
	rows := make([]leaseRow, 0, len(records))
	for _, r := range records {
		row := newLeaseRow(r)
		if err == nil && row.Problem == "" {
			row.Problem = leaseProblem(c, r)
		}
		node := r.Lease.Node()
		if first, twice := of[node]; twice && node.IsValid() && row.Problem == "" {
			row.Problem = fmt.Sprintf("node %v has lease %s too", node, first)
		}
		of[node] = row.Key
		rows = append(rows, row)
	}
	return rows, nil
}

func newLeaseRow(r store.Record) leaseRow {
	l := r.Lease
	row := leaseRow{
		Key: l.Key, Subnet: l.Subnet, Subnet6: l.Subnet6, Node: l.PublicIP, Node6: l.PublicIPv6, Backend: l.Backend,
		Reserved: r.Reserved(), Pending: errors.Is(r.Bad, store.ErrPending), Expires: r.Expires.UTC().Truncate(time.Second),
	}
	if r.Reserved() {
		row.Expires = time.Time{}
	}
	if r.Bad == nil && l.Backend == topology.EncapVXLAN {
		row.VNI, row.VTEPMAC, row.VTEPMAC6 = &l.VNI, macText(l.MAC), macText(l.MACv6)
	}
	if r.Bad != nil && !row.Pending {
		row.Problem = r.Bad.Error()
	}
	return row
}

func macText(m topology.MAC) string {
	if m == (topology.MAC{}) {
		return ""
	}
	return m.String()
}

// leaseProblem is what the network config has against a lease.
func leaseProblem(c store.Config, r store.Record) string {
	l, pending := r.Lease, r.Bad != nil
	switch {
	case l.Subnet.IsValid() && !c.Fits(l.Subnet) || l.Subnet6.IsValid() && !c.Fits(l.Subnet6):
		return "subnet is none of the network's: its node gets another one"
	case c.EnableIPv4 != l.Subnet.IsValid() || c.EnableIPv6 != l.Subnet6.IsValid():
		return "lacks a subnet of one of the network's families: restart that node"
	case pending:
		return ""
	case l.Backend != c.Backend.Type:
		return fmt.Sprintf("the network's backend is %s: restart that node", c.Backend.Type)
	case l.VNI != c.Backend.VNI:
		return fmt.Sprintf("the network's VNI is %d: restart that node", c.Backend.VNI)
	}
	return ""
}

func printLeases(w io.Writer, rows []leaseRow, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SUBNET\tNODE\tBACKEND\tVNI\tVTEP MAC\tEXPIRES\tPROBLEM")
	for _, r := range rows {
		vni := ""
		if r.VNI != nil {
			vni = fmt.Sprint(*r.VNI)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(both(r.Subnet, r.Subnet6), r.Key), both(r.Node, r.Node6),
			r.Backend, vni, both(r.VTEPMAC, r.VTEPMAC6), r.expiry(now), r.Problem)
	}
	return t.Flush()
}

// both lists what a lease has of IPv4 and of IPv6, in one column.
func both[T comparable](v4, v6 T) string {
	var none T
	var parts []string
	for _, v := range []T{v4, v6} {
		if v != none {
			parts = append(parts, fmt.Sprint(v))
		}
	}
	return strings.Join(parts, ",")
}

func (r leaseRow) expiry(now time.Time) string {
	switch {
	case r.Pending && r.Reserved:
		return "reserved, node to come"
	case r.Reserved:
		return "reserved"
	}
	return "in " + strings.TrimSuffix(r.Expires.Sub(now).Round(time.Minute).String(), "0s")
}
