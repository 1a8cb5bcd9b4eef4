// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"fmt"
	"net/netip"
)

// Rules is what the host's packet filter is to do for one network.
type Rules struct {
	Network netip.Prefix // the overlay's addresses
	Subnet  netip.Prefix // this node's part of them

	Masquerade  bool // hide container addresses where packets leave the overlay (flanneld's --ip-masq)
	RandomFully bool // masquerade to random ports, against races for one port (not --ip-masq-fully-random-disable)
	Forward     bool // accept forwarded packets from and to Network (flanneld's --iptables-forward-rules)
}

// Ensure makes the rules of the network's address family these, whatever they
// were, in the network namespace of the calling thread. It says whether it had to
// write anything. An error in masquerading does not keep it from
// forwarding, nor the other way round.
func Ensure(r Rules) (changed bool, err error) {
	r.Network, r.Subnet = r.Network.Masked(), r.Subnet.Masked()
	if err := r.check(); err != nil {
		return false, err
	}
	f := familyOf(r.Network.Addr())
	return both(
		func() (bool, error) { return f.ensureMasquerade(r) },
		func() (bool, error) { return f.ensureForward(r) },
	)
}

// Remove takes all rules of this package away, of both address families, in
// the network namespace of the calling thread. That there are none is no error.
func Remove() error { return errors.Join(ipv4.remove(), ipv6.remove()) }

// RemoveFamily takes those of one family away, that of which the node has no network
// more: IPv6 where v6, else IPv4.
func RemoveFamily(v6 bool) error {
	if v6 {
		return ipv6.remove()
	}
	return ipv4.remove()
}

func (f family) remove() error {
	_, err := both(
		func() (bool, error) { return f.ensureMasquerade(Rules{}) },
		func() (bool, error) { return f.ensureForward(Rules{}) },
	)
	return err
}

func (r Rules) check() error {
	switch {
	case !r.Network.IsValid():
		return errors.New("set up packet filter: no network given")
	case r.Masquerade && (!r.Subnet.IsValid() || r.Subnet.Bits() < r.Network.Bits() || !r.Network.Contains(r.Subnet.Addr())):
		return fmt.Errorf("set up packet filter: subnet %v is no part of network %v", r.Subnet, r.Network)
	}
	return nil
}

// both runs each step, the second also if the first fails.
func both(first, second func() (bool, error)) (changed bool, err error) {
	c1, err1 := first()
	c2, err2 := second()
	return c1 || c2, errors.Join(err1, err2)
}
