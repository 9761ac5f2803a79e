package main

import (
	"log"
	"log/slog"

	"github.com/spf13/pflag"
)

// logFlags are those of commands that run nodes.
type logFlags struct{ level slog.Level }

func (l *logFlags) register(flags *pflag.FlagSet, level slog.Level) {
	l.level = level
	flags.TextVar(&l.level, "log-level", level, "how much to log: debug, info, warn or error")
}

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
