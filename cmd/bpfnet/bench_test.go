// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/bpfnet/bpfnet/test/bench"
	"github.com/bpfnet/bpfnet/test/lab"
)

func TestParseTargets(t *testing.T) {
	host, overlay := netip.MustParseAddr("192.168.32.246"), netip.MustParseAddr("2001:db8::2")
	for _, test := range []struct {
		values []string
		to     string
		want   []bench.Target
		err    string
	}{
		{[]string{"host=192.168.32.246", "overlay=2001:db8::2"}, "", []bench.Target{
			{Name: "host", Addr: host, Control: "192.168.32.246:8286"}, {Name: "overlay", Addr: overlay, Control: "[2001:db8::2]:8286"},
		}, ""},
		{[]string{"host=192.168.32.246"}, "h2", []bench.Target{{Name: "host", Addr: host, Control: "h2:8286"}}, ""},
		{[]string{"host=192.168.32.246"}, "h2:99", []bench.Target{{Name: "host", Addr: host, Control: "h2:99"}}, ""},
		{[]string{"host=192.168.32.246"}, "[fe80::1]", []bench.Target{{Name: "host", Addr: host, Control: "[fe80::1]:8286"}}, ""},
		{nil, "h2", nil, "nothing to measure"},
		{[]string{"192.168.32.246"}, "", nil, "give NAME=ADDRESS"},
		{[]string{"=192.168.32.246"}, "", nil, "give NAME=ADDRESS"},
		{[]string{"host=h2"}, "", nil, "give NAME=ADDRESS"},
		{[]string{"host=fe80::2%eth0"}, "", nil, "not one of a link"},
		{[]string{"host=0.0.0.0"}, "h2", nil, "give an address of the other host"},
		{[]string{"host=ff02::1"}, "h2", nil, "give an address of the other host"},
		{[]string{"a=192.168.32.246", "a=192.168.32.247"}, "", nil, "--target a is given twice"},
	} {
		got, err := parseTargets(test.values, test.to)
		if d := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%v to %q (-want +got):\n%s", test.values, test.to, d)
		}
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%v: error %v, want one that says %q", test.values, err, test.err)
		}
	}
}

// TestBenchFlags: --quick gives way to what is said more exactly.
func TestBenchFlags(t *testing.T) {
	for _, test := range []struct {
		args     []string
		rounds   int
		duration time.Duration
		loads    int
		err      string
	}{
		{nil, 5, time.Second, len(bench.Loads()), ""},
		{[]string{"--quick"}, quickRounds, quickDuration, len(bench.Loads()), ""},
		{[]string{"--quick", "--rounds", "9"}, 9, quickDuration, len(bench.Loads()), ""},
		{[]string{"--duration", "2s", "--quick", "--loads", "udp_64,tcp_rr"}, quickRounds, 2 * time.Second, 2, ""},
		{[]string{"--loads", "sctp"}, 0, 0, 0, `--loads: unknown load "sctp"`},
		{[]string{"--rounds", "0"}, 0, 0, 0, "0 rounds"},
	} {
		f := &benchFlags{}
		var o bench.Options
		cmd := &cobra.Command{
			Use: "bench", SilenceErrors: true, SilenceUsage: true,
			RunE: func(cmd *cobra.Command, _ []string) (err error) {
				o, err = f.options(cmd)
				return err
			},
		}
		f.register(cmd)
		cmd.SetArgs(append([]string{}, test.args...))
		err := cmd.Execute()
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%v: error %v, want one that says %q", test.args, err, test.err)
			}
			continue
		}
		if limited := o.Limit != 0; limited != (len(test.args) == 1 && test.args[0] == "--quick") {
			t.Errorf("%v: limit %v", test.args, o.Limit)
		}
		if err != nil || o.Rounds != test.rounds || o.Duration != test.duration || len(o.Loads) != test.loads {
			t.Errorf("%v: %d rounds of %v of %d loads, error %v", test.args, o.Rounds, o.Duration, len(o.Loads), err)
		}
	}
}

// TestQuickIsQuick: by the time each measurement was seen to take beside its duration, on a machine under load.
func TestQuickIsQuick(t *testing.T) {
	const beside, standing = 100 * time.Millisecond, 20 * time.Second
	// Where it takes longer, quickLimit leaves rounds out; that it does so is not what it is for.
	measurements := time.Duration(quickRounds * len(bench.Modes()) * len(bench.Loads()))
	if took := standing + measurements*(quickDuration+beside); took > 2*time.Minute {
		t.Errorf("--quick takes %v", took)
	}
}

func TestBenchOutput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "report.html")
	if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	o := benchOutput{values: []string{"json", "html=" + file}}
	if err := o.open(); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := o.write(&b, &bench.Report{}); err != nil || !strings.HasPrefix(b.String(), "{") {
		t.Errorf("printed %q, error %v, want JSON", b.String(), err)
	}
	if err := o.close(); err != nil {
		t.Error(err)
	}
	if html, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(html, []byte("<!DOCTYPE html>")) || bytes.Contains(html, []byte("xx")) {
		t.Errorf("%d bytes of %.20q were written, error %v, want a page in place of what was there", len(html), html, err)
	}
}

// TestBenchOutputRefused: before anything is measured, and nothing is left of it.
func TestBenchOutputRefused(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		values []string
		err    string
	}{
		{[]string{"yaml"}, `unknown output format "yaml"`},
		{[]string{"html="}, `unknown output format "html="`},
		{[]string{"json", "table"}, "give one of them, once"},
		{[]string{"html=" + filepath.Join(dir, "a"), "html=" + dir}, "is a directory"},
		{[]string{"html=" + filepath.Join(dir, "a"), "html=" + filepath.Join(dir, "none", "b")}, "no such file"},
	} {
		o := benchOutput{values: test.values}
		if err := o.open(); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%v: error %v, want one that says %q", test.values, err, test.err)
		}
	}
	o := benchOutput{values: []string{"html=" + filepath.Join(dir, "a")}}
	if err := errors.Join(o.open(), o.close()); err != nil { // as where the run is interrupted
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// TestBenchOutputReplacesNoDevice: renamed onto /dev/null, a file would be in everybody's way.
func TestBenchOutputReplacesNoDevice(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDWR, 0) // a pipe without a reader waits for one
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	o := benchOutput{values: []string{"html=" + pipe}}
	if err = o.open(); err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(o.write(io.Discard, &bench.Report{}), o.close()); err != nil {
		t.Error(err)
	}
	info, err := os.Lstat(pipe)
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("it is %v, error %v, want a pipe still", info.Mode(), err)
	}
	head := make([]byte, 9)
	if n, err := reader.Read(head); err != nil || string(head[:n]) != "<!DOCTYPE" {
		t.Errorf("the pipe gives %q, error %v, want the page", head[:n], err)
	}
}

// TestBenchOutputToStdout: a page goes where standard output is, after what was written there.
func TestBenchOutputToStdout(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func(stdout *os.File) { os.Stdout = stdout }(os.Stdout)
	os.Stdout = out
	o := benchOutput{values: []string{"json", "html=" + file}}
	if err = o.open(); err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(o.write(out, &bench.Report{}), o.close(), out.Close()); err != nil { // nobody else closes it
		t.Error(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(b, []byte("{")) || !bytes.Contains(b, []byte("}\n<!DOCTYPE html>")) {
		t.Errorf("%d bytes of %.20q were written, error %v, want JSON and a page", len(b), b, err)
	}
}

// TestInterrupted: what was finished is not lost to a ctrl-c that came late, and nothing is said to be removed that is not.
func TestInterrupted(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.Join(context.Canceled, errors.New("end agent: signal: interrupt")), "interrupted, and all of it removed"},
		{errors.Join(context.Canceled, fmt.Errorf("take lab x down: %w: busy", lab.ErrLeft)),
			"interrupted: context canceled\ntake lab x down: not all of it was removed: busy"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := &cobra.Command{}
		cmd.SetContext(ctx)
		got, err := withProgress(cmd, func(context.Context, func(bench.Step)) (int, error) {
			cancel()
			return 1, test.err
		})
		said := ""
		if err != nil {
			said = err.Error()
		}
		if got != 1 || said != test.want {
			t.Errorf("interrupted, and %v: %d, error %q, want %q", test.err, got, said, test.want)
		}
	}
}

func TestProgress(t *testing.T) {
	var b bytes.Buffer
	step := bench.Step{Text: "round 1 of 5: udp_64, host", Done: 5, Total: 10, Left: 90 * time.Second}
	p := &progress{w: &b, columns: 40}
	p.show(step)
	p.end()
	if want := "\r\x1b[K[##########..........]  50 %, 1m30s lef\r\x1b[K"; b.String() != want {
		t.Errorf("a terminal of 40 columns gets %q, want %q", b.String(), want)
	}
	b.Reset()
	p = &progress{w: &b}
	for range 3 {
		p.show(step)
	}
	p.end()
	if want := "[##########..........]  50 %, 1m30s left, round 1 of 5: udp_64, host\n"; b.String() != want {
		t.Errorf("a file gets %q, want %q", b.String(), want)
	}
}
