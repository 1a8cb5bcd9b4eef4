// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestOutageSaysWhatToDo: an etcd that answers is not out of reach.
func TestOutageSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("connection refused"), `msg="etcd is out of reach; what it said last stays in force"`},
		{fmt.Errorf("grant lease: %w", rpctypes.ErrNoSpace), "etcdctl alarm disarm; what it said last stays in force"},
	} {
		var log bytes.Buffer
		var told []error
		o := &outage{log: slog.New(slog.NewTextHandler(&log, nil)), tell: func(err error) { told = append(told, err) }}
		o.begin(test.err)
		o.begin(test.err) // by another part, which is no news
		if said := log.String(); !strings.Contains(said, test.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("of %q the log says %q, want one line with %q", test.err, said, test.want)
		}
		o.end(true)
		if len(told) != 1 || !strings.Contains(log.String(), told[0].Error()[:40]) {
			t.Errorf("of %q is told %q, want what the log says, while a part is without etcd", test.err, told)
		}
		o.end(true)
		if len(told) != 2 || told[1] != nil {
			t.Errorf("at the end of %q is told %q, want nothing to be wrong", test.err, told)
		}
	}
}
