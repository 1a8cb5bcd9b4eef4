// SPDX-License-Identifier: Apache-2.0

//go:build !vm

package lab

// Patience is what waits are multiplied by: none is for what a machine takes that is merely busy.
const Patience = 1
