// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestWait: a server that fails, or is stopped, behind its owner's back.
func TestWait(t *testing.T) {
	tests := map[string]struct {
		kill func(*Server)
		want string
	}{
		"a listener fails":    {func(s *Server) { _ = s.etcd.Clients[0].Close() }, "embedded etcd: "},
		"the server stops":    {func(s *Server) { s.etcd.Server.Stop() }, "embedded etcd: stopped"},
		"closed by its owner": {func(s *Server) { _ = s.Close() }, "embedded etcd: "}, // or what its listener says of that
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s, err := Start(ctx, Options{Dir: t.TempDir(), ClientURLs: []string{"http://127.0.0.1:0"}, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ended, end := context.WithCancel(ctx)
			end()
			if err := s.Wait(ended); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v while it is well", err)
			}
			test.kill(s)
			if err := s.Wait(ctx); ctx.Err() != nil || err == nil || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("error %v, want %q...", err, test.want)
			}
		})
	}
}
