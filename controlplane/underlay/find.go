// SPDX-License-Identifier: Apache-2.0

package underlay

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// Uplink is the interface that leads to the other nodes.
type Uplink struct {
	Ifindex  int
	Name     string
	MTU      int          // bytes of IP packet
	MAC      topology.MAC // zero where the link has no Ethernet address
	Addr     netip.Addr   // this node's address on it, the outer source
	PublicIP netip.Addr   // where other nodes send to: Addr, unless Options.PublicIP says otherwise
}

// Options say which interface to take, in flanneld's terms and with its rules
// (main.go, pkg/ipmatch/match.go): the values of Iface in order, then those of
// IfaceRegex, then CanReach; the first that fits is taken. Without any of the
// three it is the interface that has PublicIP, and without that too the
// interface of the default route.
type Options struct {
	Iface      []string   // names or addresses
	IfaceRegex []string   // unanchored; matched with the addresses of all interfaces, then with the names
	CanReach   netip.Addr // the interface that the kernel would send to this address from
	PublicIP   netip.Addr // address to publish; may be one that NAT gives, where an interface is named
}

// Find chooses the uplink among the interfaces with an IPv4 address; loopback
// and the overlay device are none. The error says in one line why each choice
// failed.
func Find(o Options) (Uplink, error) {
	v, err := openView()
	if err != nil {
		return Uplink{}, err
	}
	defer v.Close()
	var failed error
	for _, choose := range choices(o) {
		up, err := choose(v)
		if err == nil {
			up.PublicIP = up.Addr
			if o.PublicIP.IsValid() {
				up.PublicIP = o.PublicIP
			}
			return up, nil
		}
		failed = join(failed, err)
	}
	return Uplink{}, fmt.Errorf("find uplink: %w", failed)
}

type choice func(*view) (Uplink, error)

func choices(o Options) []choice {
	var all []choice
	for _, s := range o.Iface {
		all = append(all, func(v *view) (Uplink, error) { return v.byNameOrAddr(s) })
	}
	for _, s := range o.IfaceRegex {
		all = append(all, func(v *view) (Uplink, error) { return v.byRegex(s) })
	}
	if o.CanReach.IsValid() {
		all = append(all, func(v *view) (Uplink, error) { return v.byReach(o.CanReach) })
	}
	if len(all) == 0 && o.PublicIP.IsValid() {
		all = append(all, func(v *view) (Uplink, error) { return v.byPublicIP(o.PublicIP) })
	}
	if len(all) == 0 {
		all = append(all, (*view).byDefaultRoute)
	}
	return all
}

// join is errors.Join on one line.
func join(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w; %w", a, b)
}

var errNoDefaultRoute = errors.New("there is no default route: name the interface with --iface NAME or --iface-can-reach ADDRESS")
