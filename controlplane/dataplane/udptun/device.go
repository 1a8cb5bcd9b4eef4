// SPDX-License-Identifier: Apache-2.0

package udptun

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
)

// DeviceName is the TUN device.
const DeviceName = "bpfnet-tun"

const (
	tunFlags = unix.IFF_TUN | unix.IFF_NO_PI // bare IP packets, one queue

	// queueLength is how many packets wait for this process where a busy machine does not let it
	// run: about as many small ones as socketBuffer has room for. By itself the kernel has 500.
	queueLength = 4096

	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE of include/uapi/linux/if_link.h

	// carrierTime bounds the wait for an adopted device to send again.
	carrierTime = 2 * time.Second
)

// device is the TUN device with its one queue attached.
type device struct {
	*os.File
	ifindex int
}

// openDevice creates the device or adopts it, and brings it up.
func openDevice(mtu int) (_ device, err error) {
	h, err := rtnl.Open()
	if err != nil {
		return device{}, err
	}
	defer h.Close()
	if _, err = findDevice(h); err != nil {
		return device{}, err
	}
	file, err := attach()
	if err != nil {
		return device{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	link, err := findDevice(h)
	if err != nil {
		return device{}, err
	}
	if link == nil {
		return device{}, fmt.Errorf("get link %s: it was removed as it was opened: try again", DeviceName)
	}
	if err := configure(h, link, mtu); err != nil {
		return device{}, err
	}
	return device{File: file, ifindex: link.Attrs().Index}, awaitCarrier(h)
}

// attach makes the device unless it is there, persistent, and opens its queue.
func attach() (*os.File, error) {
	// Into the poller only when attached: an unattached one is ready with an error.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (the tun module and CAP_NET_ADMIN are needed): %w", err)
	}
	if err := attachTo(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), DeviceName), nil
}

func attachTo(fd int) error {
	ifr, err := unix.NewIfreq(DeviceName)
	if err != nil {
		return fmt.Errorf("name %s: %w", DeviceName, err)
	}
	ifr.SetUint16(tunFlags)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("attach to %s: another process copies its packets, stop that one first: %w", DeviceName, err)
	}
	if err != nil {
		return fmt.Errorf("attach to %s: %w", DeviceName, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make %s persistent: %w", DeviceName, err)
	}
	return nil
}

// findDevice finds the device; nil without error means that there is none. One
// of another kind under that name is not ours.
func findDevice(h *netlink.Handle) (netlink.Link, error) {
	link, err := h.LinkByName(DeviceName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get link %s: %w", DeviceName, err)
	}
	tun, ok := link.(*netlink.Tuntap)
	if !ok {
		return nil, foreign(link.Type())
	}
	if tun.Mode != netlink.TUNTAP_MODE_TUN {
		return nil, foreign("tap")
	}
	return link, nil
}

func foreign(kind string) error {
	return fmt.Errorf("%s is a %s device that bpfnet did not make: rename or remove it", DeviceName, kind)
}

// configure sets what differs. A TUN device is NOARP from its creation.
func configure(h *netlink.Handle, link netlink.Link, mtu int) error {
	// Without link-local address the kernel sends nothing of its own by the device.
	err := h.LinkSetIP6AddrGenMode(link, addrGenModeNone)
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
		return fmt.Errorf("silence IPv6 on %s: %w", DeviceName, err)
	}
	if err := loosenSourceFilter(); err != nil {
		return err
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", DeviceName, mtu, err)
		}
	}
	if link.Attrs().TxQLen != queueLength {
		if err := h.LinkSetTxQLen(link, queueLength); err != nil {
			return fmt.Errorf("set queue of %s to %d packets: %w", DeviceName, queueLength, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", DeviceName, err)
		}
	}
	return nil
}

// loosenSourceFilter writes only what differs: /proc/sys may be read-only where
// the administrator has set things up. It is the calling thread's namespace's.
func loosenSourceFilter() error {
	const path, loose = "/proc/sys/net/ipv4/conf/" + DeviceName + "/rp_filter", "2"
	has, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read sysctl: %w", err)
	}
	if string(bytes.TrimSpace(has)) == loose {
		return nil
	}
	if err := os.WriteFile(path, []byte(loose), 0); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", loose, err)
	}
	return nil
}

// awaitCarrier waits until the kernel sends by the device: one that nobody was
// attached to has no carrier, and gets its queue back a moment later
// (net/core/link_watch.c). Until then it drops what is routed to it.
func awaitCarrier(h *netlink.Handle) error {
	for end := time.Now().Add(carrierTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
		link, err := h.LinkByName(DeviceName)
		if err != nil {
			return fmt.Errorf("get link %s: %w", DeviceName, err)
		}
		if link.Attrs().RawFlags&unix.IFF_RUNNING != 0 {
			return nil
		}
	}
	return fmt.Errorf("wait for %s to run: no carrier after %s", DeviceName, carrierTime)
}

// Remove deletes the device, and with it what is routed there. Not there is no
// error; one of another kind under the name is left alone and is one.
func Remove() error {
	h, err := rtnl.Open()
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := findDevice(h)
	if link == nil || err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", DeviceName, err)
	}
	return nil
}
