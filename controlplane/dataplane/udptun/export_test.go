// SPDX-License-Identifier: Apache-2.0

package udptun

// For the tests that use test/lab, which imports this package.
var (
	IPv4       = ipv4
	WellFormed = wellFormed
)
