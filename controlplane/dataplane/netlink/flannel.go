// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// flannelName is the device that flanneld makes for what want is for; "" where
// it makes none that outlives it (pkg/backend/vxlan/vxlan.go, ipip/ipip.go).
func flannelName(want netlink.Link) string {
	switch w := want.(type) {
	case *netlink.Vxlan:
		if over6(w) {
			return flannel6Name(uint32(w.VxlanId))
		}
		return fmt.Sprintf("flannel.%d", w.VxlanId)
	case *netlink.Iptun:
		return flannelIPIP
	}
	return ""
}

func flannel6Name(vni uint32) string { return fmt.Sprintf("flannel-v6.%d", vni) }

const flannelIPIP = "flannel.ipip"

// removeFlannelIPIP removes what could not be taken over, for our programs have
// a device of another kind.
func (k kernel) removeFlannelIPIP() error {
	link, err := k.link(flannelIPIP)
	if _, ours := link.(*netlink.Iptun); !ours {
		return err
	}
	return removal("device", deviceOf(link), k.LinkDel(link))
}

// takeOver renames the device that flanneld left in the place of ours, with all
// that is on it: traffic goes on by it until ours is set up. nil where there is
// none. That flanneld has ended is for the caller to know.
func (k kernel) takeOver(s topology.Self, c Carrier) (netlink.Link, error) {
	want, err := overlayWanted(s, c, nil)
	if err != nil {
		return nil, err
	}
	name := flannelName(want)
	if name == "" {
		return nil, nil
	}
	link, err := k.link(name)
	if err != nil || link == nil || inTheWay(want, link) == "" {
		return nil, err
	}
	return k.rename(link, want.Attrs().Name)
}

// rename gives a device that is up another name, which kernels before 6.2 refuse
// (commit bd039b5ea2a9, net/core/dev.c): there it is deleted, and nil returned.
func (k kernel) rename(link netlink.Link, name string) (netlink.Link, error) {
	old := link.Attrs().Name
	err := k.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) {
		return nil, removal("device", deviceOf(link), k.LinkDel(link))
	}
	if err != nil {
		return nil, fmt.Errorf("rename %s to %s: %w", old, name, err)
	}
	return k.link(name)
}

// HandOver leaves our routes and, under flannel's names, the devices that
// flanneld uses too, with the peers on them: flanneld takes them up, and in a
// vxlan or host-gw network no packet is lost in between. Other devices go.
func HandOver() error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	errs := []error{k.handOverRoutes(ipv4), k.handOverRoutes(ipv6)}
	for name := range devices {
		link, err := k.overlayLink(name)
		errs = append(errs, err)
		if link != nil {
			errs = append(errs, k.handOver(link))
		}
	}
	return errors.Join(errs...)
}

// handOverRoutes makes our routes such as flanneld sets, so that its own take their
// place. A cover that was left goes: it leads to programs that are gone.
func (k kernel) handOverRoutes(f family) error {
	t := newTables()
	errs := []error{k.listRoutes(f, 0, t)}
	for r, a := range t.routes {
		if r.metric == coverMetric {
			errs = append(errs, k.delRoute(r), k.delCoverNeighbour(f, r))
			continue
		}
		theirs := r
		theirs.metric = f.flannels
		if theirs == r || f.number == unix.AF_INET6 && r.metric != f.metric {
			continue
		}
		if err := k.replace(theirs, a); err != nil {
			errs = append(errs, fmt.Errorf("add route %s with metric %d: %w", theirs, theirs.metric, err))
			continue
		}
		errs = append(errs, k.delRoute(r))
	}
	return errors.Join(errs...)
}

func (k kernel) delCoverNeighbour(f family, r route) error {
	err := k.writeNeighbour(unix.RTM_DELNEIGH, 0, f.number, r.ifindex, neighbour{addr: r.gateway})
	return removal("neighbour", r.gateway, err)
}

func (k kernel) handOver(link netlink.Link) error {
	name := flannelName(link)
	if name == "" {
		return removal("device", deviceOf(link), k.LinkDel(link))
	}
	if err := k.LinkSetName(link, name); err != nil {
		return fmt.Errorf("rename %s to %s (kernels before 6.2 cannot while it is up): %w", link.Attrs().Name, name, err)
	}
	return nil
}
