// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// SubnetEnv is what subnet.env tells container runtimes of the node's subnet.
type SubnetEnv struct {
	Network     netip.Prefix // the zero Prefix leaves this and Subnet out
	Subnet      netip.Prefix // of the node; the file holds its first usable address and its length
	IPv6Network netip.Prefix // the zero Prefix leaves this and IPv6Subnet out
	IPv6Subnet  netip.Prefix
	MTU         int // bytes of IP packet a container may send
	IPMasq      bool
}

// Write puts e into the file at path, and makes its directory where that is
// missing. Readers see the old file or the new one. A file that says so already
// is left alone.
func (e SubnetEnv) Write(path string) error {
	data := e.encode()
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeDevice != 0 {
		return writeDevice(path, data)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write subnet file: %w", err)
	}
	// Whatever the umask, runtimes that are not root read it.
	err := renameio.WriteFile(path, data, 0o644, renameio.IgnoreUmask())
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno // without the name of the file beside it, which is another each time
	}
	if err != nil {
		return fmt.Errorf("write subnet file %s: %w", path, err)
	}
	return nil
}

// writeDevice writes to what must not be replaced by a file: whoever wants no subnet
// file names /dev/null.
func writeDevice(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0); err != nil {
		return fmt.Errorf("write subnet file: %w", err)
	}
	return nil
}

// encode returns the file's bytes, as flannel's WriteSubnetFile lays them out.
func (e SubnetEnv) encode() []byte {
	var b []byte
	if e.Network.IsValid() {
		b = fmt.Appendf(b, "FLANNEL_NETWORK=%v\nFLANNEL_SUBNET=%v\n", e.Network, gateway(e.Subnet))
	}
	if e.IPv6Network.IsValid() {
		b = fmt.Appendf(b, "FLANNEL_IPV6_NETWORK=%v\nFLANNEL_IPV6_SUBNET=%v\n", e.IPv6Network, gateway(e.IPv6Subnet))
	}
	return fmt.Appendf(b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
}

// gateway returns the first usable address of a subnet, with its length.
func gateway(subnet netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
}

// ReadSubnetEnv reads the file at path, be it flannel's or ours. Its error
// matches fs.ErrNotExist where there is none.
func ReadSubnetEnv(path string) (SubnetEnv, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return SubnetEnv{}, fmt.Errorf("read subnet file: %w", err)
	}
	e, err := parseSubnetEnv(data)
	if err != nil {
		return SubnetEnv{}, fmt.Errorf("read subnet file %s: %w", path, err)
	}
	return e, nil
}

// parseSubnetEnv reads lines of KEY=VALUE. Keys it does not know are other
// people's.
func parseSubnetEnv(data []byte) (SubnetEnv, error) {
	var e SubnetEnv
	fields := map[string]func(string) error{
		"FLANNEL_NETWORK":      parsePrefixTo(&e.Network),
		"FLANNEL_SUBNET":       parsePrefixTo(&e.Subnet),
		"FLANNEL_IPV6_NETWORK": parsePrefixTo(&e.IPv6Network),
		"FLANNEL_IPV6_SUBNET":  parsePrefixTo(&e.IPv6Subnet),
		"FLANNEL_MTU":          func(s string) (err error) { e.MTU, err = strconv.Atoi(s); return err },
		"FLANNEL_IPMASQ":       func(s string) (err error) { e.IPMasq, err = strconv.ParseBool(s); return err },
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		key = strings.TrimPrefix(strings.TrimSpace(key), "export ")
		parse, known := fields[key]
		if !known {
			continue
		}
		if err := parse(strings.Trim(value, "\"' \r")); err != nil {
			return SubnetEnv{}, fmt.Errorf("%s %q cannot be read: delete the file and it is written anew", key, value)
		}
	}
	return e, lines.Err()
}

func parsePrefixTo(to *netip.Prefix) func(string) error {
	return func(s string) error {
		p, err := netip.ParsePrefix(s)
		*to = p.Masked()
		return err
	}
}
