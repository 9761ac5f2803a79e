package main

import (
	"errors"
	"log"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are the flags of commands that run nodes.
type logFlags struct{ level slog.Level }

func (l *logFlags) register(flags *pflag.FlagSet, level slog.Level) {
	l.level = level
	flags.Var((*logLevel)(&l.level), "log-level", "how much to log: debug, info, warn or error")
}

// logLevel is a flag for a level.
type logLevel slog.Level

func (l *logLevel) Set(s string) error {
	if err := (*slog.Level)(l).UnmarshalText([]byte(s)); err != nil {
		return errors.New("the levels are debug, info, warn and error")
	}
	return nil
}

func (l *logLevel) String() string { return slog.Level(*l).String() }

// Type names the kind of value in usage texts.
func (l *logLevel) Type() string { return "level" }

// logger writes to standard error: text on a terminal, JSON otherwise.
//
// It also redirects package log, to which net/http and other libraries write regardless of
// level and format. That is process-wide state; only commands that run nodes until the process
// ends set it. The messages concern single connections, so their level is debug.
func (a *app) logger(l logFlags) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.level}
	var handler slog.Handler = slog.NewJSONHandler(a.stderr, options)
	if isTerminal(a.stderr) {
		handler = slog.NewTextHandler(a.stderr, options)
	}
	log.SetFlags(0)
	log.SetOutput(slog.NewLogLogger(handler, slog.LevelDebug).Writer())
	return slog.New(handler)
}
