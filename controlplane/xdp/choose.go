// SPDX-License-Identifier: Apache-2.0

// Package xdp decides whether from_wire runs on the uplink, and how.
package xdp

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/bpfnet/bpfnet/bpf"
)

// Mode is where an XDP program runs.
type Mode string

// The modes. Generic is on the skb, before tc: from_wire drops there and spreads,
// but decapsulation is left to tc. Auto is Native where that is known to cost
// nothing, else Off.
const (
	Off     Mode = "off"
	Generic Mode = "generic"
	Native  Mode = "native"
	Auto    Mode = "auto"
)

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Off, Generic, Native, Auto:
		return m, nil
	}
	return "", fmt.Errorf("XDP mode %q: off, generic, native or auto", s)
}

// MaxCPUs is how many CPUs IPIP packets can be spread over: SPREAD_MAX of bpf/include/maps.h.
const MaxCPUs = len(bpf.DatapathSettings{}.Cpu)

// ParseCPUs reads a list of CPUs as the kernel writes one ("0-3,8"), of which
// this machine has possible.
func ParseCPUs(s string, possible int) ([]uint16, error) {
	var cpus []uint16
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		from, err := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		switch {
		case err != nil || err2 != nil || from > to:
			return nil, fmt.Errorf("CPUs %q: a list such as 0-3,8", s)
		case int(to) >= possible:
			return nil, fmt.Errorf("CPUs %q: this machine's are 0 to %d", s, possible-1)
		case len(cpus)+int(to-from)+1 > MaxCPUs:
			return nil, fmt.Errorf("CPUs %q: at most %d", s, MaxCPUs)
		}
		for cpu := from; cpu <= to; cpu++ {
			cpus = append(cpus, uint16(cpu))
		}
	}
	return cpus, nil
}

// Want is what the daemon was told.
type Want struct {
	Mode Mode
	CPUs []uint16 // to spread IPIP packets over by their inner flow; none: they stay where they are
}

// Choice is what is done, and why.
type Choice struct {
	Mode Mode     `json:"mode"` // Off, Generic or Native
	Why  string   `json:"why"`
	CPUs []uint16 `json:"cpus,omitempty"`
}

// On reports whether from_wire runs.
func (c Choice) On() bool { return c.Mode == Generic || c.Mode == Native }

func (c Choice) String() string {
	s := fmt.Sprintf("%s: %s", c.Mode, c.Why)
	if len(c.CPUs) > 0 {
		s += fmt.Sprintf("; IPIP spread over CPUs %s", strings.Trim(strings.Join(strings.Fields(fmt.Sprint(c.CPUs)), ", "), "[]"))
	}
	return s
}

// fragsKernel is the first kernel with XDP programs for packets in several buffers (BPF_F_XDP_HAS_FRAGS).
const fragsKernel = 5<<16 | 18<<8

// costly are drivers whose native XDP takes more from all other traffic than
// it gives to the tunnel's.
var costly = map[string]string{
	"veth":       "the other end has to cut every superpacket, and each packet is copied",
	"virtio_net": "merging of received packets by the host ends",
	"tun":        "it runs on skbs that are there already",
}

// Choose decides. The error is what was asked for and cannot be had, as one line
// for people; the choice is then what is done instead.
func Choose(want Want, l Link) (Choice, error) {
	mode, why, err := chooseMode(want.Mode, l)
	c := Choice{Mode: mode, Why: why}
	if err != nil || mode == Off || len(want.CPUs) == 0 {
		return c, err
	}
	if mode == Native && l.Driver == "veth" {
		return c, errors.New("IPIP packets are not spread over CPUs: veth hands packets over without their checksums, " +
			"which do not survive the way to another CPU in native mode (use --xdp generic)")
	}
	c.CPUs = want.CPUs
	return c, nil
}

func chooseMode(want Mode, l Link) (Mode, string, error) {
	if want == Off {
		return Off, "as told", nil
	}
	missing := l.missing()
	switch {
	case missing == "" && want == Generic:
		return Generic, "as told", nil
	case missing == "" && l.Known && l.Features&actBasic == 0:
		missing = fmt.Sprintf("driver %s has no native XDP", l.Driver)
	case missing == "" && want == Native:
		return Native, "as told", nil
	}
	if want == Auto {
		return chooseAuto(missing, l)
	}
	return Off, missing, fmt.Errorf("no XDP on the uplink: %s", missing)
}

// chooseAuto takes what costs nobody anything, as far as the kernel tells.
func chooseAuto(missing string, l Link) (Mode, string, error) {
	switch {
	case missing != "":
		return Off, missing, nil
	case costly[l.Driver] != "":
		return Off, fmt.Sprintf("native XDP of driver %s would slow other traffic down: %s", l.Driver, costly[l.Driver]), nil
	case !l.Known:
		return Off, "this kernel does not tell what its drivers can do (Linux 6.3 does)", nil
	case !l.Hardware:
		return Off, fmt.Sprintf("driver %s is of no NIC", l.Driver), nil
	case l.Features&actRxFrags == 0:
		return Off, fmt.Sprintf("driver %s has no native XDP for packets in several buffers", l.Driver), nil
	}
	return Native, fmt.Sprintf("driver %s has it, for packets in several buffers too", l.Driver), nil
}
