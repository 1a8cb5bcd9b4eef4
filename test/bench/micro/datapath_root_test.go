// SPDX-License-Identifier: Apache-2.0

//go:build root

package micro

import (
	"errors"
	stdmaps "maps"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bpfnet/bpfnet/bpf"
	"github.com/bpfnet/bpfnet/controlplane/containers"
	dataplane "github.com/bpfnet/bpfnet/controlplane/dataplane/ebpf"
	"github.com/bpfnet/bpfnet/controlplane/topology"
	"github.com/bpfnet/bpfnet/maps"
)

// datapath is the programs, loaded but attached to nothing, and their maps,
// with room for a cluster.
type datapath struct {
	programs *ebpf.Collection
	set      *maps.Set
}

func newDatapath(peers int) (*datapath, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	s := state(0)
	settings := dataplane.Settings(false, dataplane.Network{
		Self: s.Self, Prefix: s.Network, SubnetLen: subnetLen, Overlay: dataplane.Overlay{Ifindex: uplink, MAC: s.Self.VTEP.MAC},
	})
	if err = spec.Variables[bpf.DatapathVarConfig].Set(&settings); err != nil {
		return nil, err
	}
	for name, size := range map[string]uint32{
		"route_index": settings.Ipv4.IndexCount, "hosts": uint32(peers) + 16, "nodes": uint32(peers) + 16,
		"neigh": uint32(peers) + 16, "fdb": uint32(peers) + 16, "routes": 16,
	} {
		spec.Maps[name].MaxEntries = size
	}
	d := &datapath{}
	if d.programs, err = ebpf.NewCollection(spec); err != nil {
		return nil, err
	}
	if err = d.loadNative(spec, settings); err == nil {
		d.set, err = maps.NewSet(d.programs.Maps)
	}
	if err != nil {
		d.programs.Close()
		return nil, err
	}
	return d, nil
}

// loadNative has from_wire be that of XDP's native mode, which takes packets out of their tunnel. The
// other programs stay as they are without XDP: the verifier leaves them less code.
func (d *datapath) loadNative(spec *ebpf.CollectionSpec, settings bpf.DatapathSettings) error {
	const constants = ".rodata" // where the settings are
	spec = spec.Copy()
	settings.WireMac.Byte = wireMAC
	if err := spec.Variables[bpf.DatapathVarConfig].Set(&settings); err != nil {
		return err
	}
	spec.Programs = map[string]*ebpf.ProgramSpec{bpf.FromWire: spec.Programs[bpf.FromWire]}
	shared := stdmaps.Clone(d.programs.Maps)
	delete(shared, constants)
	native, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return err
	}
	defer native.Close()
	other := d.programs.Programs[bpf.FromWire]
	d.programs.Programs[bpf.FromWire] = native.DetachProgram(bpf.FromWire)
	return other.Close()
}

// The container of node 0 that sends and receives. Its link is the device of test runs.
var (
	containerAddr = subnetOf(0).Addr().Next().Next()
	containerMAC  = topology.MAC{2, 0, 0, 0, 0, 2}
	gatewayMAC    = topology.MAC{2, 0, 0, 0, 0, 1}
	wireMAC       = topology.MAC{2, 0, 0, 0, 0, 3}
)

// fill has the daemon's code write the maps.
func (d *datapath) fill(peers int) error {
	dp, err := dataplane.New(d.set, 0, vni)
	if err != nil {
		return err
	}
	endpoints, err := dataplane.NewEndpoints(d.set, 0)
	if err != nil {
		return err
	}
	return errors.Join(dp.Apply(state(peers)), endpoints.Apply([]containers.Endpoint{
		{Addr: containerAddr, Ifindex: uplink, MAC: containerMAC, Gateway: gatewayMAC},
	}))
}

// filled is the datapath of a cluster. The last one is kept for the next
// benchmark: a large one takes seconds to fill.
func filled(b *testing.B, peers int) *datapath {
	b.Helper()
	kept.Lock()
	defer kept.Unlock()
	if kept.datapath != nil && kept.peers == peers {
		return kept.datapath
	}
	if kept.datapath != nil {
		kept.datapath.programs.Close()
		kept.datapath = nil
	}
	d, err := newDatapath(peers)
	if err == nil {
		err = d.fill(peers)
	}
	if err != nil {
		b.Fatal(err)
	}
	kept.datapath, kept.peers = d, peers
	return d
}

var kept struct {
	sync.Mutex
	datapath *datapath
	peers    int
}
