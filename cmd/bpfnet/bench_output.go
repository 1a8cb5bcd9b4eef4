// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/report"
)

// benchOutput is where a report goes: once to the terminal at most, and to any
// number of files.
type benchOutput struct {
	values []string

	stdout func(io.Writer, *bench.Report) error // nil: nothing
	html   []string                             // files
}

func (o *benchOutput) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.values, "output", "o", []string{"table"},
		"table, json, or html=FILE for a page with charts; can be given more than once")
}

// parse is to be called before anything is measured: a mistake should not cost minutes.
func (o *benchOutput) parse() error {
	for _, v := range o.values {
		write := map[string]func(io.Writer, *bench.Report) error{"table": report.Table, "json": report.JSON}[v]
		file, isHTML := strings.CutPrefix(v, "html=")
		switch {
		case write != nil && o.stdout != nil:
			return errors.New("-o table and -o json both write to standard output: choose one")
		case write != nil:
			o.stdout = write
		case isHTML && file != "":
			o.html = append(o.html, file)
		default:
			return fmt.Errorf("unknown output format %q: table, json or html=FILE", v)
		}
	}
	return nil
}

func (o *benchOutput) write(w io.Writer, r *bench.Report) (err error) {
	if o.stdout != nil {
		err = o.stdout(w, r)
	}
	for _, file := range o.html {
		var b bytes.Buffer
		e := report.HTML(&b, r)
		if e == nil {
			e = renameio.WriteFile(file, b.Bytes(), 0o644)
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("write %s: %w", file, e))
		}
	}
	return err
}

func namesOf[T any](all []T, name func(T) string) string {
	var names []string
	for _, x := range all {
		names = append(names, name(x))
	}
	return strings.Join(names, ", ")
}
