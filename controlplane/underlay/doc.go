// SPDX-License-Identifier: Apache-2.0

// Package underlay is about the network that carries the overlay: which of this
// node's interfaces leads into it, the way through it to another node, and when
// it changes.
//
// All functions work in the network namespace of the calling thread.
package underlay
