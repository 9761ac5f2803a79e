package main

import (
	"errors"
	"log"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are those of commands that run nodes.
type logFlags struct{ level slog.Level }

func (l *logFlags) register(flags *pflag.FlagSet, level slog.Level) {
	l.level = level
	flags.Var((*logLevel)(&l.level), "log-level", "how much to log: debug, info, warn or error")
}

// logLevel is a flag for a level.
type logLevel slog.Level

// Set parses s.
func (l *logLevel) Set(s string) error {
	if err := (*slog.Level)(l).UnmarshalText([]byte(s)); err != nil {
		return errors.New("the levels are debug, info, warn and error")
	}
	return nil
}

func (l *logLevel) String() string { return slog.Level(*l).String() }

// Type names the kind of value in usage texts.
func (l *logLevel) Type() string { return "level" }

// logger writes to standard error: for people on a terminal, JSON otherwise.
//
// It also takes over package log, which net/http's clients and other libraries write
// to when they are given no logger, past every level and format. That is state of the
// process; it is set here, where a command begins that runs nodes until the process
// ends. What they say is about single connections: debug.
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
