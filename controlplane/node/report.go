// SPDX-License-Identifier: Apache-2.0

package node

import (
	"log/slog"
	"strings"
	"sync"

	"github.com/bpfnet/bpfnet/controlplane/topology"
)

// reporter says what is wrong once, when it begins, and once when it is over.
type reporter struct {
	log  *slog.Logger
	mu   sync.Mutex
	open map[string]map[string]string // source -> key -> text
}

func newReporter(log *slog.Logger) *reporter {
	return &reporter{log: log, open: map[string]map[string]string{}}
}

// report sets what is wrong with one source; nil: nothing.
func (r *reporter) report(source string, err error) { r.set(source, problem(err)) }

// note is report for what is logged already.
func (r *reporter) note(source string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[source] = problem(err)
}

func problem(err error) map[string]string {
	if err == nil {
		return nil
	}
	return map[string]string{"": strings.ReplaceAll(err.Error(), "\n", "; ")} // joined errors are a line each
}

// reportRecords sets what is wrong with records of etcd.
func (r *reporter) reportRecords(source string, problems []topology.Problem) {
	now := map[string]string{}
	for _, p := range problems {
		if now[p.Key] != "" {
			now[p.Key] += "; also "
		}
		now[p.Key] += p.Text
	}
	r.set(source, now)
}

func (r *reporter) set(source string, now map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.open[source]
	for key, text := range now {
		if before[key] != text {
			r.log.Warn(text, attrs(source, key)...)
		}
	}
	for key := range before {
		if _, still := now[key]; !still {
			r.log.Info("mended", attrs(source, key)...)
		}
	}
	r.open[source] = now
}

func attrs(source, key string) []any {
	if key == "" {
		return []any{"source", source}
	}
	return []any{"source", source, "key", key}
}

// problems is everything that is wrong now, for the status.
func (r *reporter) problems() []Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := []Problem{} // an empty list in JSON, not null
	for source, open := range r.open {
		for key, text := range open {
			all = append(all, Problem{Source: source, Key: key, Text: text})
		}
	}
	sortProblems(all)
	return all
}
