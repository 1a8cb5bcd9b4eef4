// SPDX-License-Identifier: Apache-2.0

// Package zapslog lets etcd's client and server, which log by zap, write to a
// slog.Logger.
package zapslog

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// New returns a zap logger that writes to l. Everything below an error is
// written at debug level, and what it debugs itself by, each key it writes, at
// [LevelTrace]: what etcd calls a warning ("retrying of unary
// invoker failed") is its own business as long as it goes on working, and
// whoever uses etcd says what it means for them.
func New(l *slog.Logger) *zap.Logger {
	return zap.New(&core{log: l})
}

// core is a zapcore.Core in front of a slog.Logger.
type core struct {
	log *slog.Logger
}

// LevelTrace is below our own debug level; --log-level=debug-4 shows it.
const LevelTrace = slog.LevelDebug - 4

// level is where an entry of zap's level goes in slog.
func level(l zapcore.Level) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		return LevelTrace
	case l < zapcore.ErrorLevel:
		return slog.LevelDebug
	}
	return slog.LevelError
}

// benign are errors of etcd's that mean nothing to anybody: a server on a new
// data directory looks for a schema version there until its first snapshot, and
// one that is stopped says that it serves no more; Server.Wait tells the rest.
var benign = map[string]bool{
	"failed to update storage version":              true,
	"setting up serving from embedded etcd failed.": true,
}

func (c *core) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), level(l))
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: slog.New(c.log.Handler().WithAttrs(attrs(fields)))}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !benign[e.Message] {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, level(e.Level), e.Message, e.Caller.PC)
	r.AddAttrs(attrs(fields)...)
	return c.log.Handler().Handle(context.Background(), r)
}

func (*core) Sync() error { return nil }

// attrs translates zap's fields, sorted by name.
func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]slog.Attr, 0, len(enc.Fields))
	for _, name := range slices.Sorted(maps.Keys(enc.Fields)) {
		out = append(out, slog.Any(name, enc.Fields[name]))
	}
	return out
}
