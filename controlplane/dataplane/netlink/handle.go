// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// kernel is rtnetlink in the caller's namespace: a handle for devices, and a
// connection for what there is one of for each peer.
type kernel struct {
	*netlink.Handle
	conn *rtnl.Conn
}

func openKernel() (kernel, error) {
	c, err := rtnl.DialWriter()
	if err != nil {
		return kernel{}, err
	}
	h, err := rtnl.Open()
	if err != nil {
		c.Close()
		return kernel{}, err
	}
	return kernel{h, c}, nil
}

func (k kernel) Close() {
	k.Handle.Close()
	k.conn.Close()
}

// gone reports whether a removal failed because there was nothing to remove.
func gone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.EADDRNOTAVAIL)
}

// macOf returns the zero MAC for what is no Ethernet address.
func macOf(hw net.HardwareAddr) (mac topology.MAC) {
	if len(hw) == len(mac) {
		copy(mac[:], hw)
	}
	return mac
}

func hardwareAddr(m topology.MAC) net.HardwareAddr { return net.HardwareAddr(m[:]) }

// unicast reports whether m can be the address of one VTEP. The kernel takes an
// all-zero or multicast FDB entry as a list of nodes to flood to.
func unicast(m topology.MAC) bool { return m != topology.MAC{} && m[0]&1 == 0 }
