// SPDX-License-Identifier: Apache-2.0

package maps

// MarkChecked is MARK_CHECKED of bpf/include/verdict.h: the bits of a packet's mark
// that say that from_network has checked who sent it, and that from_overlay asks for.
const MarkChecked = 0x00b90000
