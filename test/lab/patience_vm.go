// SPDX-License-Identifier: Apache-2.0

//go:build vm

package lab

// Patience is what waits are multiplied by: emulated processors, of a machine that is busy besides.
const Patience = 10
