// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// logged is a logger and what it has written since it was last asked.
func logged() (*slog.Logger, func() []string) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
	return log, func() []string {
		defer b.Reset()
		return strings.FieldsFunc(b.String(), func(r rune) bool { return r == '\n' })
	}
}

func checkLines(t *testing.T, when string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: log (-want +got):\n%s", when, cmp.Diff(want, got))
	}
}

func TestReportSaysOnceAtBeginAndEnd(t *testing.T) {
	log, lines := logged()
	r := newReporter(log)
	steps := []struct {
		when string
		err  error
		want []string
	}{
		{"nothing wrong yet", nil, nil},
		{"it begins", errors.New("no etcd"), []string{`level=WARN msg="no etcd" source=store`}},
		{"it goes on", errors.New("no etcd"), nil},
		{"it becomes something else", errors.New("no config"), []string{`level=WARN msg="no config" source=store`}},
		{"it ends", nil, []string{`level=INFO msg=mended source=store`}},
		{"it has ended", nil, nil},
		{"it begins again", errors.New("no etcd"), []string{`level=WARN msg="no etcd" source=store`}},
		{"several at once are one line", errors.Join(errors.New("no etcd"), errors.New("no config")),
			[]string{`level=WARN msg="no etcd; no config" source=store`}},
	}
	for _, step := range steps {
		r.report("store", step.err)
		checkLines(t, step.when, lines(), step.want...)
	}
	r.report("uplink", errors.New("gone"))
	checkLines(t, "of another source", lines(), `level=WARN msg=gone source=uplink`)
	r.report("uplink", nil)
	checkLines(t, "of another source", lines(), `level=INFO msg=mended source=uplink`)
	want := []Problem{{Source: "store", Text: "no etcd; no config"}}
	if diff := cmp.Diff(want, r.problems()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestReportRecords(t *testing.T) {
	log, lines := logged()
	r := newReporter(log)
	a, b := topology.Problem{Key: "a", Text: "overlaps"}, topology.Problem{Key: "b", Text: "no VtepMAC"}
	steps := []struct {
		when     string
		problems []topology.Problem
		want     []string
	}{
		{"one", []topology.Problem{a}, []string{`level=WARN msg=overlaps source=etcd key=a`}},
		{"another too", []topology.Problem{a, b}, []string{`level=WARN msg="no VtepMAC" source=etcd key=b`}},
		{"in another order", []topology.Problem{b, a}, nil},
		{"two of one record", []topology.Problem{a, b, {Key: "b", Text: "VNI 2"}},
			[]string{`level=WARN msg="no VtepMAC; also VNI 2" source=etcd key=b`}},
		{"one gone", []topology.Problem{a}, []string{`level=INFO msg=mended source=etcd key=b`}},
		{"all gone", nil, []string{`level=INFO msg=mended source=etcd key=a`}},
		{"still", []topology.Problem{}, nil},
	}
	for _, step := range steps {
		r.reportRecords("etcd", step.problems)
		checkLines(t, step.when, lines(), step.want...)
	}
	r.reportRecords("kernel", []topology.Problem{b, a})
	r.reportRecords("etcd", []topology.Problem{b})
	want := []Problem{
		{Source: "etcd", Key: "b", Text: "no VtepMAC"},
		{Source: "kernel", Key: "a", Text: "overlaps"},
		{Source: "kernel", Key: "b", Text: "no VtepMAC"},
	}
	if diff := cmp.Diff(want, r.problems()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// TestReportIsSafe is for the race detector: sessions' tasks report at once, while the status is read.
func TestReportIsSafe(t *testing.T) {
	log, lines := logged()
	r := newReporter(log)
	var tasks sync.WaitGroup
	for task := range 8 {
		tasks.Go(func() {
			source := fmt.Sprint(task)
			for range 50 {
				r.report(source, errors.New("wrong"))
				r.problems()
				r.report(source, nil)
			}
		})
	}
	tasks.Wait()
	if got := len(lines()); got != 8*50*2 || len(r.problems()) > 0 {
		t.Errorf("%d lines and problems %v, want %d lines and none", got, r.problems(), 8*50*2)
	}
}
