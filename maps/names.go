// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/bpfnet/bpfnet/bpf"
)

// enumNames are the enumerators of bpf/include/reasons.h by their value, out
// of the programs' BTF, so that there is no second list.
type enumNames struct {
	programs, reasons map[uint64]string
}

// datapathSpec is the compiled object, for reading.
var datapathSpec = sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read the datapath's object: %w", err)
	}
	return spec, nil
})

var loadNames = sync.OnceValues(func() (*enumNames, error) {
	spec, err := datapathSpec()
	if err != nil {
		return nil, err
	}
	programs, err := enumerators(spec.Types, "program")
	if err != nil {
		return nil, err
	}
	reasons, err := enumerators(spec.Types, "reason")
	if err != nil {
		return nil, err
	}
	return &enumNames{programs, reasons}, nil
})

func enumerators(types *btf.Spec, name string) (map[uint64]string, error) {
	var enum *btf.Enum
	if err := types.TypeByName(name, &enum); err != nil {
		return nil, fmt.Errorf("read names from the datapath's BTF: enum %s: %w", name, err)
	}
	names := make(map[uint64]string, len(enum.Values))
	for _, v := range enum.Values {
		names[v.Value] = strings.ToLower(v.Name)
	}
	return names, nil
}

// program names PROGRAM_FROM_NETWORK "from_network". One that a newer datapath
// added is shown by its number.
func (n *enumNames) program(p bpf.DatapathProgram) string {
	if name, ok := strings.CutPrefix(n.programs[uint64(p)], "program_"); ok {
		return name
	}
	return strconv.Itoa(int(p))
}

// reason names FORWARD_DELIVERED "forward", "delivered". One that a newer
// datapath added is shown by its number.
func (n *enumNames) reason(r bpf.DatapathReason) (verdict, reason string) {
	if verdict, reason, ok := strings.Cut(n.reasons[uint64(r)], "_"); ok {
		return verdict, reason
	}
	return "unknown", strconv.Itoa(int(r))
}
