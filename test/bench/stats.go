// SPDX-License-Identifier: Apache-2.0

package bench

import "slices"

// Median of values, of which there is at least one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// tax is the time that a mode adds to host to host, as a share of what netlink
// mode adds; all three given as rates. It has no meaning, and ok is false, where
// netlink mode was not seen to add any.
//
// The time of one is taken as the inverse of the rate. That is the time between
// two packets, which a sender that is busy spends on one; of several flows, it
// is their common share.
func tax(rate, host, netlink float64) (value float64, ok bool) {
	added := 1/netlink - 1/host
	if added <= 0 {
		return 0, false
	}
	return (1/rate - 1/host) / added, true
}
