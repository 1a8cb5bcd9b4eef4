// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// CheckLayout reports whether a map's entries mean what this build's programs
// take them for: kind, sizes, and the names and types of all fields, which the
// kernel keeps with the map (BTF). A field whose meaning changes and whose type
// does not is therefore to be renamed. How many entries there may be is no part
// of it. have may be nil: the error is fs.ErrNotExist.
func CheckLayout(name string, want *ebpf.MapSpec, have *ebpf.Map) error {
	switch {
	case have == nil:
		return fmt.Errorf("open map %s: %w", name, os.ErrNotExist)
	case have.Type() != want.Type || have.KeySize() != want.KeySize || have.ValueSize() != want.ValueSize:
		return fmt.Errorf("map %s is a %v of %d and %d bytes, not a %v of %d and %d: %w",
			name, have.Type(), have.KeySize(), have.ValueSize(), want.Type, want.KeySize, want.ValueSize, errVersion)
	}
	same, err := sameTypes(want, have)
	if err != nil {
		return fmt.Errorf("read types of map %s: %w", name, err)
	}
	if !same {
		return fmt.Errorf("map %s has other fields: %w", name, errVersion)
	}
	return nil
}

var errVersion = errors.New("made by another version of bpfnet?")

// sameTypes compares what the kernel says of a map's keys and values. Of a ring
// buffer it says nothing.
func sameTypes(want *ebpf.MapSpec, have *ebpf.Map) (same bool, err error) {
	handle, err := have.Handle()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, handle.Close()) }()
	types, err := handle.Spec(nil)
	if err != nil {
		return false, err
	}
	return hasType(types, want.Key) && hasType(types, want.Value), nil
}

func hasType(types *btf.Spec, want btf.Type) bool {
	if _, none := want.(*btf.Void); want == nil || none {
		return true
	}
	all, err := types.AnyTypesByName(want.TypeName()) // a key's and a value's are two where both have one
	return err == nil && slices.ContainsFunc(all, func(have btf.Type) bool { return reflect.DeepEqual(have, want) })
}
