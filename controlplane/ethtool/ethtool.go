// SPDX-License-Identifier: Apache-2.0

// Package ethtool asks for and changes the offloads of a link, as `ethtool -k` and `-K` do, by
// SIOCETHTOOL (include/uapi/linux/ethtool.h). All of it is of the calling thread's network namespace.
//
// github.com/safchain/ethtool hands the kernel the address of a variable on a goroutine's stack as a number: where Go moves that
// stack before the system call, the kernel writes to where it was.
package ethtool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/ethtool.h.
const (
	getStrings    = 0x1b // ETHTOOL_GSTRINGS
	getSetInfo    = 0x37 // ETHTOOL_GSSET_INFO
	getFeatures   = 0x3a // ETHTOOL_GFEATURES
	setFeatures   = 0x3b // ETHTOOL_SFEATURES
	featureNames  = 4    // ETH_SS_FEATURES
	nameLen       = 32   // ETH_GSTRING_LEN
	blockBits     = 32   // features in a block of words
	getWords      = 4    // available, requested, active, never_changed
	getActive     = 2
	setWords      = 2 // valid, requested
	featureHeader = 8 // cmd, size
)

var native = binary.NativeEndian

// Features are the offloads that the kernel knows, by the names that `ethtool -k` prints, and whether the device has them on.
func Features(device string) (map[string]bool, error) {
	names, err := names(device)
	if err != nil {
		return nil, err
	}
	get := features(getFeatures, getWords, len(names))
	if err := ioctl(device, get); err != nil {
		return nil, fmt.Errorf("get features of %s: %w", device, err)
	}
	has := make(map[string]bool, len(names))
	for i, name := range names {
		active := native.Uint32(get[wordAt(i, getWords, getActive):])
		has[name] = active>>(i%blockBits)&1 != 0
	}
	return has, nil
}

// Change turns offloads on and off. What a device does not let be changed stays as it is, which is no error.
func Change(device string, want map[string]bool) error {
	names, err := names(device)
	if err != nil {
		return err
	}
	set, known := features(setFeatures, setWords, len(names)), 0
	for i, name := range names {
		on, ok := want[name]
		if !ok {
			continue
		}
		known++
		for word, bit := range []bool{true, on} {
			if b := set[wordAt(i, setWords, word):]; bit {
				native.PutUint32(b, native.Uint32(b)|1<<(i%blockBits))
			}
		}
	}
	if known != len(want) {
		return fmt.Errorf("change features of %s to %v: the kernel does not know all of them", device, want)
	}
	if err := ioctl(device, set); err != nil {
		return fmt.Errorf("change features of %s: %w", device, err)
	}
	return nil
}

// features is an empty struct ethtool_gfeatures or ethtool_sfeatures for n of them.
func features(command uint32, words, n int) []byte {
	blocks := (n + blockBits - 1) / blockBits
	b := make([]byte, featureHeader+blocks*words*4)
	native.PutUint32(b, command)
	native.PutUint32(b[4:], uint32(blocks))
	return b
}

// wordAt is where the word of a feature's block stands.
func wordAt(feature, words, word int) int {
	return featureHeader + (feature/blockBits*words+word)*4
}

// names are those of all features, in the order of their bits.
func names(device string) ([]string, error) {
	info := make([]byte, 20) // struct ethtool_sset_info of one set
	native.PutUint32(info, getSetInfo)
	native.PutUint64(info[8:], 1<<featureNames)
	if err := ioctl(device, info); err != nil {
		return nil, fmt.Errorf("count features of %s: %w", device, err)
	}
	n := native.Uint32(info[16:])
	const header = 12 // cmd, string_set, len
	all := make([]byte, header+n*nameLen)
	native.PutUint32(all, getStrings)
	native.PutUint32(all[4:], featureNames)
	native.PutUint32(all[8:], n)
	if err := ioctl(device, all); err != nil {
		return nil, fmt.Errorf("get names of features of %s: %w", device, err)
	}
	names := make([]string, 0, n)
	for name := range slices.Chunk(all[header:], nameLen) {
		name, _, _ = bytes.Cut(name, []byte{0})
		names = append(names, string(name))
	}
	return names, nil
}

// ifreq is struct ifreq of include/uapi/linux/if.h with ifr_data. The address stays a pointer, which Go follows.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

func ioctl(device string, data []byte) (err error) {
	if len(device) >= unix.IFNAMSIZ {
		return unix.ENODEV
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	request := ifreq{data: unsafe.Pointer(unsafe.SliceData(data))}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
