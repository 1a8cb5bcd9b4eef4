// SPDX-License-Identifier: Apache-2.0

package maps

// Diff is what makes actual equal to desired: the entries to put, for they are
// missing or differ, and the keys to delete.
func Diff[K, V comparable](desired, actual map[K]V) (puts map[K]V, deletes []K) {
	puts = map[K]V{}
	for k, v := range desired {
		if old, ok := actual[k]; !ok || old != v {
			puts[k] = v
		}
	}
	for k := range actual {
		if _, ok := desired[k]; !ok {
			deletes = append(deletes, k)
		}
	}
	return puts, deletes
}
