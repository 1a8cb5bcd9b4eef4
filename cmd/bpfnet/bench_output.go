// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/bench/report"
)

// benchOutput is where a report goes: once to the terminal at most, and to any
// number of files.
type benchOutput struct {
	values []string

	stdout func(io.Writer, *bench.Report) error // nil: nothing
	html   []*outputFile
}

// outputFile is a file open for what is to be written at the end.
type outputFile struct {
	*os.File
	regular bool // not a device, nor a pipe, nor standard output
	made    bool // by us
}

func (o *benchOutput) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.values, "output", "o", []string{"table"},
		"table, json, or html=FILE for a page with charts; can be given more than once")
}

// open is to be called before anything is measured: a mistake should not cost
// minutes. After it, close is to be called.
func (o *benchOutput) open() error {
	var files []string
	for _, v := range o.values {
		write := map[string]func(io.Writer, *bench.Report) error{"table": report.Table, "json": report.JSON}[v]
		file, isHTML := strings.CutPrefix(v, "html=")
		switch {
		case write != nil && o.stdout != nil:
			return errors.New("-o table and -o json write to standard output: give one of them, once")
		case write != nil:
			o.stdout = write
		case isHTML && file != "":
			files = append(files, file)
		default:
			return fmt.Errorf("unknown output format %q: table, json or html=FILE", v)
		}
	}
	for _, file := range files {
		f, err := openOutput(file)
		if err != nil {
			return errors.Join(fmt.Errorf("-o html=%s: %w", file, err), o.close())
		}
		o.html = append(o.html, f)
	}
	return nil
}

// openOutput opens a file and leaves what is in it. What is no file stays what it is
// too: the device that a file renamed to /dev/null would replace. Standard output,
// by whichever name, is not opened anew: there may be a table before the page.
func openOutput(file string) (*outputFile, error) {
	named, err := os.Stat(file)
	if stdout, e := os.Stdout.Stat(); err == nil && e == nil && os.SameFile(named, stdout) {
		return &outputFile{File: os.Stdout}, nil
	}
	made := errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &outputFile{f, info.Mode().IsRegular(), made}, nil
}

// replace writes b in place of what is in the file.
func (f *outputFile) replace(b []byte) error {
	f.made = false
	if f.regular {
		if err := f.Truncate(0); err != nil {
			return err
		}
	}
	_, err := f.Write(b)
	return err
}

// close closes the files, and removes those that were made and not written.
func (o *benchOutput) close() error {
	var err error
	for _, f := range o.html {
		if f.File != os.Stdout {
			err = errors.Join(err, f.Close())
		}
		if f.made {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}
	o.html = nil
	return err
}

func (o *benchOutput) write(w io.Writer, r *bench.Report) (err error) {
	if o.stdout != nil {
		err = o.stdout(w, r)
	}
	for _, f := range o.html {
		var b bytes.Buffer
		e := report.HTML(&b, r)
		if e == nil {
			e = f.replace(b.Bytes())
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("write %s: %w", f.Name(), e))
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
