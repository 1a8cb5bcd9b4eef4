// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bpfnet/bpfnet/controlplane/store"
)

func newLeaseCommand() *cobra.Command {
	o := &store.Options{}
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "Show or change the nodes' subnet leases in etcd",
		Args:  cobra.NoArgs,
	}
	registerEtcd(cmd.PersistentFlags(), o)
	cmd.AddCommand(newLeaseListCommand(o), newLeaseReserveCommand(o), newLeaseUnreserveCommand(o), newLeaseReleaseCommand(o))
	return cmd
}

func newLeaseReserveCommand(o *store.Options) *cobra.Command {
	var publicIP, publicIPv6 string
	cmd := &cobra.Command{
		Use:   "reserve SUBNET [IPV6-SUBNET]",
		Short: "Keep a subnet for its node for ever",
		Long: "Takes the time limit off a lease, so that its node finds the subnet again however long it was\n" +
			"away; what the lease says stays. With --public-ip (--public-ipv6 where nodes have no IPv4 address)\n" +
			"the subnet, or that of each family, is kept for a node that has not come yet. A running bpfnet daemon follows. flanneld (0.28.4) gives its lease a time limit again,\n" +
			"when it starts and at once while it runs: its nodes cannot hold a reservation.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var l store.Lease
			var err, err6 error
			l.PublicIP, err = nodeAddr("public-ip", publicIP, netip.Addr.Is4)
			l.PublicIPv6, err6 = nodeAddr("public-ipv6", publicIPv6, netip.Addr.Is6)
			toCome := l.PublicIP.IsValid() || l.PublicIPv6.IsValid()
			switch {
			case err != nil || err6 != nil:
				return cmp.Or(err, err6)
			case len(args) == 2 && !toCome:
				return errors.New("a lease has both subnets: name it by one of them; two are for a node to come, with --public-ip")
			}
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				if toCome {
					return reserveFor(ctx, cmd, s, args, l)
				}
				return reserve(ctx, cmd, s, args[0])
			})
		},
	}
	cmd.Flags().StringVar(&publicIPv6, "public-ipv6", "", "likewise its IPv6 address")
	cmd.Flags().StringVar(&publicIP, "public-ip", "", "address of the node to come, which it will have as its own or as --public-ip")
	return cmd
}

func reserve(ctx context.Context, cmd *cobra.Command, s *store.Store, name string) error {
	r, err := findLease(ctx, s, name)
	switch {
	case err != nil:
		return err
	case r.Bad != nil && !errors.Is(r.Bad, store.ErrPending):
		return fmt.Errorf("%s is no lease (%w): delete it with `bpfnet lease release`", r.Lease.Key, r.Bad)
	case !r.Reserved():
		if err = s.Reserve(ctx, r); err == nil {
			err = staysReserved(ctx, s, r)
		}
	}
	if err != nil {
		return tryAgain(err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is reserved for node %v\n", r.Lease.Key, r.Lease.Node())
	return nil
}

// overruled is how long flanneld is given to undo a reservation of its lease:
// it takes the missing time limit for one that is over (parseSubnetWatchResponse
// in its pkg/subnet/etcd/registry.go), and renews the lease.
const overruled = time.Second

// staysReserved tells whether it has.
func staysReserved(ctx context.Context, s *store.Store, r store.Record) error {
	deadline := time.After(overruled)
	for {
		now, err := findLease(ctx, s, r.Lease.Key)
		if err != nil {
			return err
		}
		if !now.Reserved() {
			return fmt.Errorf("lease %s has a time limit again: node %v runs flanneld, it seems, which undoes a reservation; bpfnet keeps one",
				r.Lease.Key, r.Lease.Node())
		}
		select {
		case <-deadline:
			return nil
		case <-time.After(overruled / 10):
		}
	}
}

func reserveFor(ctx context.Context, cmd *cobra.Command, s *store.Store, names []string, l store.Lease) error {
	for _, name := range names {
		subnet, err := netip.ParsePrefix(name)
		of := &l.Subnet
		if subnet.Addr().Is6() {
			of = &l.Subnet6
		}
		if err != nil || of.IsValid() {
			return fmt.Errorf("%q is no subnet: give one such as 10.5.1.0/24, and at most one of each family", name)
		}
		*of = subnet
	}
	c, err := s.Config(ctx)
	if err != nil {
		return err
	}
	if err = s.ReserveFor(ctx, c, l); err != nil {
		return tryAgain(err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is reserved for node %v, when it comes\n", strings.Join(names, " and "), l.Node())
	return nil
}

func newLeaseUnreserveCommand(o *store.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "unreserve SUBNET",
		Short: "Give a reserved lease a time limit again",
		Long: "Gives a reserved lease a day to live. Its node renews it: a bpfnet node at once knows that it\n" +
			"has to, flanneld does when it is restarted.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				r, err := findLease(ctx, s, args[0])
				if err != nil {
					return err
				}
				if !r.Reserved() {
					fmt.Fprintf(cmd.OutOrStdout(), "%s is not reserved\n", r.Lease.Key)
					return nil
				}
				ends, err := s.Unreserve(ctx, r)
				if err != nil {
					return tryAgain(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s ends at %s, unless its node renews it\n", r.Lease.Key, ends.Format(time.RFC3339))
				return nil
			})
		},
	}
}

func newLeaseReleaseCommand(o *store.Options) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "release SUBNET|KEY",
		Short: "Delete a lease",
		Long: "Deletes a lease, so that its subnet is free for others, or a key that is no lease. The lease of\n" +
			"a node that may be alive wants --force: a bpfnet node puts it back, and flanneld ends itself.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return useEtcd(cmd, o, func(ctx context.Context, s *store.Store) error {
				r, err := findLease(ctx, s, args[0])
				if err != nil {
					return err
				}
				if err = alive(cmd, r); err != nil && !force {
					return err
				}
				if err = s.Delete(ctx, r); err != nil {
					return tryAgain(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is deleted\n", r.Lease.Key)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete it though its node may be alive")
	return cmd
}

// alive says why a lease is not to be deleted: its node may need it. etcd does
// not tell: a lease is renewed but once a day.
func alive(cmd *cobra.Command, r store.Record) error {
	if r.Bad != nil {
		return nil // a reservation for a node to come, or no lease at all
	}
	s, err := fetchStatus(cmd)
	if err == nil && s.Lease == r.Lease.Key {
		return fmt.Errorf("lease %s is that of this node, whose daemon is running and would put it back: stop it first", r.Lease.Key)
	}
	ends := "it is reserved: `bpfnet lease unreserve` has it end in a day"
	if !r.Reserved() {
		ends = fmt.Sprintf("it ends by itself in %s", time.Until(r.Expires).Round(time.Minute))
	}
	return fmt.Errorf("lease %s is that of node %v, which may be alive: stop its daemon first, then --force deletes it (%s)",
		r.Lease.Key, r.Lease.Node(), ends)
}

// findLease finds what the user calls name.
func findLease(ctx context.Context, s *store.Store, name string) (store.Record, error) {
	records, err := s.Records(ctx)
	if err != nil {
		return store.Record{}, err
	}
	return store.Find(records, name)
}

// tryAgain says what to do where somebody else was faster.
func tryAgain(err error) error {
	if errors.Is(err, store.ErrChanged) {
		return fmt.Errorf("%w: try again", err)
	}
	return err
}
