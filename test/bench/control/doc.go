// SPDX-License-Identifier: Apache-2.0

// Package control measures the control plane: what a large cluster costs one
// node's daemon. The other nodes are records in a real etcd; the daemon, its
// maps and the kernel's tables are a host's of the lab.
package control

import (
	"errors"
	"fmt"
	"time"

	"github.com/bpfnet/bpfnet/test/bench"
)

// Options say what to measure.
type Options struct {
	Nodes   []int // clusters, by their number of nodes
	Rate    int   // changes a second
	Changes int   // in all
	Binary  string

	Progress func(bench.Step) // told of each step before it is done; may be nil
}

const (
	maxNodes = 250_000 // with those that join: what the network of these clusters has subnets for
	maxRate  = 10_000
)

// Validate tells what of the options cannot be done.
func (o Options) Validate() error {
	for _, n := range o.Nodes {
		if n < 1 || n > maxNodes-2*o.Changes {
			return fmt.Errorf("a cluster of %d nodes and %d that join: use 1 to %d in all", n, 2*o.Changes, maxNodes)
		}
	}
	switch {
	case len(o.Nodes) == 0:
		return errors.New("no cluster to measure: give numbers of nodes")
	case o.Rate < 1 || o.Rate > maxRate:
		return fmt.Errorf("%d changes a second: use 1 to %d", o.Rate, maxRate)
	case o.Changes < 1 || o.Changes > maxNodes:
		return fmt.Errorf("%d changes: use 1 to %d", o.Changes, maxNodes)
	}
	return nil
}

// Report is what `bpfnet bench control -o json` prints.
type Report struct {
	Machine bench.Machine `json:"machine"`
	Rate    int           `json:"changes_per_second"`
	Changes int           `json:"changes"`
	Results []Result      `json:"control"`
}

// Result is the daemon in one cluster.
type Result struct {
	Nodes int `json:"nodes"`
	// From the start of the process until it serves all of them, the listing of etcd included.
	FirstSync time.Duration `json:"first_sync_ns"`
	// Until the kernel's own routes, neighbours and FDB serve all of them too.
	KernelView time.Duration `json:"kernel_view_ns"`
	// FirstSync of a daemon that finds everything done.
	Restart time.Duration `json:"restart_ns"`
	// From before a put to etcd until the map has its entry.
	P50 time.Duration `json:"put_to_map_p50_ns"`
	P99 time.Duration `json:"put_to_map_p99_ns"`
	Max time.Duration `json:"put_to_map_max_ns"`
	// The same of nodes that come right after another has left: two changes at a time.
	ReplaceP50 time.Duration `json:"replace_p50_ns"`
	ReplaceP99 time.Duration `json:"replace_p99_ns"`
	ReplaceMax time.Duration `json:"replace_max_ns"`
	// Of the daemon that has seen all changes.
	RSS     uint64  `json:"rss_bytes"`
	PeakRSS uint64  `json:"peak_rss_bytes"`
	Maps    uint64  `json:"map_bytes"` // of the kernel, for all maps
	IdleCPU float64 `json:"idle_cpu"`  // share of one CPU while nothing changes
}
