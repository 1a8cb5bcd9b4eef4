// SPDX-License-Identifier: Apache-2.0

//go:build root

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/controlplane/node"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/controlplane/underlay/rtnl"
	"github.com/bpfnet/bpfnet/test/lab"
)

// wantAttached are the programs a host has to have, by tcx or clsact: on its
// uplink, its containers' links and bpfnet0, and nowhere else; in the netlink
// dataplane none.
func wantAttached(l *lab.Lab, h *lab.Host, way string) []string {
	if l.Options.Dataplane == node.Netlink {
		return nil
	}
	want := []string{lab.Uplink + " " + way + " ingress from_network"}
	if l.Options.Backend != topology.EncapNone {
		want = append(want, "bpfnet0 "+way+" ingress from_overlay")
		if l.Options.Backend != topology.EncapUDP {
			want = append(want, "bpfnet0 "+way+" egress from_host")
		}
		if l.Options.Backend != topology.EncapVXLAN {
			want = append(want, "bpfnet0p "+way+" ingress from_veth")
		}
	}
	for _, c := range h.Containers {
		want = append(want, c.Veth+" "+way+" ingress from_container")
	}
	slices.Sort(want)
	return want
}

// kernelWay is how a daemon attaches its programs unless it is told otherwise:
// by tcx, which came with kernel 6.6, else by clsact.
func kernelWay(t *testing.T) string {
	t.Helper()
	if kernelBefore(t, 6, 6) {
		return "clsact"
	}
	return "tcx"
}

func kernelBefore(t *testing.T, major, minor uint32) bool {
	t.Helper()
	version, err := features.LinuxVersionCode()
	noError(t, err)
	return version < major<<16|minor<<8
}

// attached names the programs at the tc hooks of all interfaces of a host.
func attached(t *testing.T, h *lab.Host) (all []string) {
	t.Helper()
	for _, p := range attachedPrograms(t, h) {
		all = append(all, p.String())
	}
	slices.Sort(all)
	return all
}

// attachedProgram is a program at a tc hook.
type attachedProgram struct {
	iface, way, hook string
	info             *ebpf.ProgramInfo
}

func (p attachedProgram) String() string {
	return fmt.Sprintf("%s %s %s %s", p.iface, p.way, p.hook, p.info.Name)
}

// attachedPrograms are those of a host, whose daemon may be replacing them.
func attachedPrograms(t *testing.T, h *lab.Host) (all []attachedProgram) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	noError(t, h.NS.Do(func() error {
		links, err := rtnl.List("links", netlink.LinkList)
		if err != nil {
			return err
		}
		for _, l := range links {
			for _, hook := range tcHooks {
				programs, err := hook.programs(ctx, l)
				if err != nil {
					return fmt.Errorf("programs at %s %s: %w", l.Attrs().Name, hook.name, err)
				}
				all = append(all, programs...)
			}
		}
		return nil
	}))
	return all
}

type tcHook struct {
	name   string
	tcx    ebpf.AttachType
	clsact uint32
}

var tcHooks = []tcHook{
	{"ingress", ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
	{"egress", ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
}

// programs are those at a hook of a link in the calling thread's namespace; none where the link is gone.
func (h tcHook) programs(ctx context.Context, l netlink.Link) (all []attachedProgram, err error) {
	for way, list := range map[string]func(netlink.Link) ([]ebpf.ProgramID, error){"tcx": h.tcxIDs, "clsact": h.clsactIDs} {
		infos, err := programInfos(ctx, func() ([]ebpf.ProgramID, error) { return list(l) })
		if err != nil {
			return nil, err
		}
		for _, info := range infos {
			all = append(all, attachedProgram{l.Attrs().Name, way, h.name, info})
		}
	}
	return all, nil
}

func (h tcHook) tcxIDs(l netlink.Link) (ids []ebpf.ProgramID, err error) {
	query, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: h.tcx})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) { // a kernel without tcx, or no such link any more
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, p := range query.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

func (h tcHook) clsactIDs(l netlink.Link) (ids []ebpf.ProgramID, err error) {
	filters, err := netlink.FilterList(l, h.clsact)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) { // no clsact qdisc, or no such link any more
		return nil, nil
	}
	for _, f := range filters {
		if bpf, ok := f.(*netlink.BpfFilter); ok {
			ids = append(ids, ebpf.ProgramID(bpf.Id))
		}
	}
	return ids, err
}

// programInfos lists programs again when one is gone before it is looked at: another has its place.
func programInfos(ctx context.Context, list func() ([]ebpf.ProgramID, error)) (infos []*ebpf.ProgramInfo, err error) {
	err = lab.Until(ctx, "no program goes while they are listed", func() (done bool, err error) {
		ids, err := list()
		if err != nil {
			return false, err
		}
		infos = make([]*ebpf.ProgramInfo, len(ids))
		for i := range ids {
			if infos[i], err = programInfo(ids[i]); err != nil {
				break
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return true, err
	})
	return infos, err
}

func programInfo(id ebpf.ProgramID) (*ebpf.ProgramInfo, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.Info()
}
