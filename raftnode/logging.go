package raftnode

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raftLogger lets raft write to a slog.Logger. Its infos, each state change of each member,
// are debug here.
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
	return zap.New(&zapCore{l: l, repeats: newRepeatLimit(time.Now)}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

type zapCore struct {
	l       *slog.Logger
	repeats *repeatLimit
}

// repeatEvery is how often the same message may be logged: strangers decide how often
// rafthttp has something to say.
const repeatEvery = 10 * time.Second

// repeatLimit lets each message through once in repeatEvery. Messages are the constant
// texts of a few packages, so there are few. It is safe for concurrent use.
type repeatLimit struct {
	now func() time.Time

	mu   sync.Mutex
	last map[string]*lastLine
}

// lastLine is when a message was logged, and how often it was left out since.
type lastLine struct {
	at   time.Time
	left int
}

func newRepeatLimit(now func() time.Time) *repeatLimit {
	return &repeatLimit{now: now, last: make(map[string]*lastLine)}
}

// due reports whether the message is to be logged now, and how many like it were
// left out since the last one.
func (s *repeatLimit) due(message string) (left int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, m := s.now(), s.last[message]
	if m != nil && now.Sub(m.at) < repeatEvery {
		m.left++
		return 0, false
	}
	if m != nil {
		left = m.left
	}
	s.last[message] = &lastLine{at: now}
	return left, true
}

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
	return &zapCore{l: c.l.With(slogArgs(fields)...), repeats: c.repeats}
}

func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level, args := slogLevel(e.Level), slogArgs(fields)
	if level == slog.LevelInfo || level == slog.LevelWarn {
		left, due := c.repeats.due(e.Message)
		if !due {
			return nil
		}
		if left > 0 {
			args = append(args, "left_out", left)
		}
	}
	c.l.Log(context.Background(), level, e.Message, args...)
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

// DisputeEvery is how often it is worth logging that histories differ.
const DisputeEvery = 30 * time.Second
