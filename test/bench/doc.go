// SPDX-License-Identifier: Apache-2.0

// Package bench measures what an overlay costs: the same loads in every mode,
// against netlink mode and against no overlay at all.
//
// It is fair by construction. Every mode has a lab of its own, all of them up
// at the same time, and rounds go through the modes one after another, so that
// a change of the machine's mood meets all of them alike. Sender and receiver
// sit on the same two cores in every mode. What is compared are medians, and a
// rate is of what arrived.
//
// It is honest before it is fast: the way that packets take is proved, on the
// wire and by the counters of who carried them, before a mode is measured and
// again afterwards; and a load that moves nothing is an error.
package bench
