// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// testTable is a table with 0 to 9 in it, each its own value, and the list of
// what is written to it. Writes of multiples of 4 fail.
func testTable() (*table[int, int], *[]string) {
	var written []string
	write := func(verb string, k int) error {
		if k%4 == 0 {
			return fmt.Errorf("%s %d", verb, k)
		}
		written = append(written, fmt.Sprintf("%s %d", verb, k))
		return nil
	}
	t := &table[int, int]{
		have: map[int]int{}, compare: cmp.Compare[int],
		set: func(k, _ int) error { return write("set", k) },
		del: func(k int) error { return write("del", k) },
	}
	for k := range 10 {
		t.have[k] = k
	}
	return t, &written
}

func TestTable(t *testing.T) {
	table, written := testTable()
	want := map[int]int{1: 1, 2: 20, 4: 40, 5: 5, 8: 80, 11: 11, 12: 12, 13: 13}
	for range 2 { // what failed is tried again, what did not is not
		if err := table.put(want); err == nil || err.Error() != "set 4 (and 2 more)" {
			t.Errorf("put: error %v", err)
		}
		if err := table.prune(table.all(), want); err == nil || err.Error() != "del 0" {
			t.Errorf("prune: error %v", err)
		}
	}
	if diff := gocmp.Diff([]string{"set 2", "set 11", "set 13", "del 3", "del 6", "del 7", "del 9"}, *written); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	// What could not be written is known as it was.
	if diff := gocmp.Diff(map[int]int{0: 0, 1: 1, 2: 20, 4: 4, 5: 5, 8: 8, 11: 11, 13: 13}, table.have); diff != "" {
		t.Errorf("known content (-want +got):\n%s", diff)
	}
}

func TestTableWritesNothingThatIsRight(t *testing.T) {
	table, written := testTable()
	want := maps.Clone(table.have)
	if err := errors.Join(table.put(want), table.prune(table.all(), want)); err != nil || len(*written) > 0 {
		t.Errorf("error %v, writes %v", err, slices.Clone(*written))
	}
}

func TestFailures(t *testing.T) {
	var f failures
	if err := f.err(); err != nil {
		t.Errorf("error %v of nothing", err)
	}
	first := errors.New("no room")
	f.add(first)
	if err := f.err(); err != first { //nolint:errorlint // that very one
		t.Errorf("error %v of one", err)
	}
	f.add(errors.New("another"))
	f.add(errors.New("yet another"))
	if err := f.err(); !errors.Is(err, first) || err.Error() != "no room (and 2 more)" {
		t.Errorf("error %v of three", err)
	}
}
