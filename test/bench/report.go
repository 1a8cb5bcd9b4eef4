// SPDX-License-Identifier: Apache-2.0

package bench

// Report is what `bpfnet bench -o json` prints.
type Report struct {
	Machine Machine  `json:"machine"`
	Results []Result `json:"results"` // load by load, the modes in their order
	Tax     []Tax    `json:"tax"`
	Absent  []Absent `json:"absent"` // what was asked for and cannot be had
}

// Result is one load in one mode, over all rounds.
type Result struct {
	Mode   string  `json:"mode"`
	Load   string  `json:"load"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Unit   string  `json:"unit"`   // of the three: "1/s" or "bit/s"
	CPUNs  float64 `json:"cpu_ns"` // of the whole machine, for each packet, transaction, connection, or 64 KiB; the median
}

// Tax is the overlay tax of a mode in a load: the time for each packet beyond
// host to host, as a share of what netlink-vxlan takes beyond it.
type Tax struct {
	Mode  string  `json:"mode"`
	Load  string  `json:"load"`
	Value float64 `json:"value"`
}

// Absent is a mode, or a load, that this machine cannot run.
type Absent struct {
	Mode   string `json:"mode,omitempty"`
	Load   string `json:"load,omitempty"`
	Reason string `json:"reason"`
}

// sample is one measurement.
type sample struct {
	rate, cpu float64
}

// samples are all measurements of a load in a mode.
type samples map[cell][]sample

type cell struct{ mode, load string }

// results are the samples as the report has them.
func (s samples) results(modes []string, loads []Load) []Result {
	var all []Result
	for _, l := range loads {
		for _, m := range modes {
			if of := s[cell{m, l.Name}]; len(of) > 0 {
				all = append(all, result(m, l, of))
			}
		}
	}
	return all
}

func result(mode string, l Load, of []sample) Result {
	r := Result{Mode: mode, Load: l.Name, Unit: l.Unit.Name, Min: of[0].rate, Max: of[0].rate}
	var rates, cpu []float64
	for _, s := range of {
		rates, cpu = append(rates, s.rate), append(cpu, s.cpu)
		r.Min, r.Max = min(r.Min, s.rate), max(r.Max, s.rate)
	}
	r.Median, r.CPUNs = median(rates), median(cpu)
	return r
}

// taxes are those of all results that can be compared with both host and netlink-vxlan.
func taxes(results []Result) []Tax {
	all := []Tax{}
	rates := rates(results)
	for _, r := range results {
		host, netlink := rates[cell{hostMode, r.Load}], rates[cell{netlinkMode, r.Load}]
		if r.Mode == hostMode || host == 0 || netlink == 0 {
			continue
		}
		if value, ok := tax(r.Median, host, netlink); ok {
			all = append(all, Tax{r.Mode, r.Load, value})
		}
	}
	return all
}

func rates(results []Result) map[cell]float64 {
	rates := map[cell]float64{}
	for _, r := range results {
		rates[cell{r.Mode, r.Load}] = r.Median
	}
	return rates
}
