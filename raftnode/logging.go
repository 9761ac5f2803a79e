package raftnode

import (
	"context"
	"fmt"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raftLogger lets raft write to a slog.Logger. What raft calls info (every
// state change of every member) is debug for us; the node logs its own leader
// changes.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) Debug(v ...any)            {}
func (r raftLogger) Debugf(string, ...any)     {}
func (r raftLogger) Info(v ...any)             { r.l.Debug(fmt.Sprint(v...)) }
func (r raftLogger) Infof(f string, v ...any)  { r.l.Debug(fmt.Sprintf(f, v...)) }
func (r raftLogger) Error(v ...any)            { r.l.Error(fmt.Sprint(v...)) }
func (r raftLogger) Errorf(f string, v ...any) { r.l.Error(fmt.Sprintf(f, v...)) }
func (r raftLogger) Warning(v ...any)          { r.l.Warn(fmt.Sprint(v...)) }
func (r raftLogger) Warningf(f string, v ...any) {
	r.l.Warn(fmt.Sprintf(f, v...))
}

// raft calls Fatal and Panic where its invariants are broken. There is no way
// on from there; the node's loop turns the panic into the error Run returns.
func (r raftLogger) Fatal(v ...any)            { panic(raftPanic(fmt.Sprint(v...))) }
func (r raftLogger) Fatalf(f string, v ...any) { panic(raftPanic(fmt.Sprintf(f, v...))) }
func (r raftLogger) Panic(v ...any)            { panic(raftPanic(fmt.Sprint(v...))) }
func (r raftLogger) Panicf(f string, v ...any) { panic(raftPanic(fmt.Sprintf(f, v...))) }

// raftPanic is a broken invariant of raft.
type raftPanic string

func (p raftPanic) Error() string { return "raft: " + string(p) }

// zapLogger lets the WAL, snap and rafthttp packages write to a slog.Logger,
// one level quieter than they mean it: they report every reconnection.
func zapLogger(l *slog.Logger) *zap.Logger {
	return zap.New(&zapCore{l: l}, zap.OnFatal(zapcore.WriteThenPanic))
}

type zapCore struct{ l *slog.Logger }

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l <= zapcore.InfoLevel:
		return slog.LevelDebug
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func (c *zapCore) Enabled(l zapcore.Level) bool {
	return c.l.Enabled(context.Background(), slogLevel(l))
}

func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{l: c.l.With(slogArgs(fields)...)}
}

func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.l.Log(context.Background(), slogLevel(e.Level), e.Message, slogArgs(fields)...)
	return nil
}

func (c *zapCore) Sync() error { return nil }

func slogArgs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	args := make([]any, 0, 2*len(fields))
	for _, f := range fields {
		f.AddTo(enc)
		args = append(args, f.Key, enc.Fields[f.Key])
	}
	return args
}
