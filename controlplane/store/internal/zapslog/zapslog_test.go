// SPDX-License-Identifier: Apache-2.0

package zapslog_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/bpfnet/bpfnet/controlplane/store/internal/zapslog"
)

func TestLevelsAndFields(t *testing.T) {
	for _, tt := range []struct {
		name  string
		level slog.Level
		want  []string
	}{
		{"debug", slog.LevelDebug, []string{
			`level=DEBUG msg=starting name=n1 port=2379 url=http://x`,
			`level=DEBUG msg="took too long"`,
			`level=ERROR msg=broken error="disk full"`,
		}},
		{"trace", zapslog.LevelTrace, []string{
			`level=DEBUG msg=starting name=n1 port=2379 url=http://x`,
			`level=DEBUG-4 msg="key put"`,
			`level=DEBUG msg="took too long"`,
			`level=ERROR msg=broken error="disk full"`,
		}},
		{"info", slog.LevelInfo, []string{`level=ERROR msg=broken error="disk full"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			l := zapslog.New(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
				Level:       tt.level,
				ReplaceAttr: dropTime,
			})))
			l.With(zap.String("name", "n1")).Info("starting", zap.String("url", "http://x"), zap.Int("port", 2379))
			l.Debug("key put")
			l.Warn("took too long")
			l.Error("setting up serving from embedded etcd failed.")
			l.Error("broken", zap.Error(errors.New("disk full")))
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.TrimSpace(out.String()), "\n")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
