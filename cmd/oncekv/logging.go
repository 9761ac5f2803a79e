package main

import (
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
func (a *app) logger(l logFlags) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.level}
	if isTerminal(a.stderr) {
		return slog.New(slog.NewTextHandler(a.stderr, options))
	}
	return slog.New(slog.NewJSONHandler(a.stderr, options))
}
