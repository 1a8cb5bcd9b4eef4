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
		o := &outage{log: slog.New(slog.NewTextHandler(&log, nil))}
		o.begin(test.err)
		o.begin(test.err) // by another part, which is no news
		if said := log.String(); !strings.Contains(said, test.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("of %q the log says %q, want one line with %q", test.err, said, test.want)
		}
	}
}
