// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bpfnet/bpfnet/controlplane/store"
	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// The network has subnets for all clusters. Of the first ones the daemon takes
// its own: it chooses among the first hundred that are free.
const (
	networkConfig = `{"Network":"10.0.0.0/8","SubnetLen":26,"Backend":{"Type":"vxlan"}}`
	subnetLen     = 26
	firstSubnet   = 1000
	batch         = 100 // puts in a transaction; etcd takes 128
)

func ipv4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// subnetOf is node n's. Its containers are there, and its address behind the lab's router.
func subnetOf(n int) netip.Prefix {
	return netip.PrefixFrom(ipv4(10<<24+uint32(firstSubnet+n)<<(32-subnetLen)), subnetLen)
}

// record is node n's in etcd.
func record(n int) (key, value string, err error) {
	subnet := subnetOf(n)
	l := store.Lease{
		Subnet: subnet, PublicIP: ipv4(11<<24 + uint32(n)), Backend: topology.EncapVXLAN, VNI: 1,
		MAC: topology.MAC{0xc6, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)},
	}
	b, err := l.Value()
	return path.Join(store.DefaultPrefix, "subnets", fmt.Sprintf("%v-%d", subnet.Addr(), subnetLen)), string(b), err
}

// join puts the records of nodes from first on into etcd.
func join(ctx context.Context, e *clientv3.Client, first, count int) error {
	for n := first; n < first+count; n += batch {
		var puts []clientv3.Op
		for i := n; i < min(n+batch, first+count); i++ {
			key, value, err := record(i)
			if err != nil {
				return err
			}
			puts = append(puts, clientv3.OpPut(key, value))
		}
		if _, err := e.Txn(ctx).Then(puts...).Commit(); err != nil {
			return fmt.Errorf("put %d leases into etcd: %w", len(puts), err)
		}
	}
	return nil
}

// leave takes a node's record out of etcd.
func leave(ctx context.Context, e *clientv3.Client, n int) error {
	key, _, err := record(n)
	if err != nil {
		return err
	}
	if _, err = e.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete lease from etcd: %w", err)
	}
	return nil
}

func configure(ctx context.Context, e *clientv3.Client) error {
	if _, err := e.Put(ctx, path.Join(store.DefaultPrefix, "config"), networkConfig); err != nil {
		return fmt.Errorf("put network config into etcd: %w", err)
	}
	return nil
}
