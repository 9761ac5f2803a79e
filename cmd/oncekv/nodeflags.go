package main

import (
	"errors"
	"log"
	"log/slog"
	"time"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/server"
)

// registerAllowedHosts adds the flag to a command that listens.
func registerAllowedHosts(f *pflag.FlagSet, names *[]string) {
	f.StringSliceVar(names, "allowed-hosts", nil, "additional host `names` to answer to, such as that of a proxy: NAME, .SUFFIX for a name and everything below it, or * for any name; addresses, localhost, and the names in the URLs of the flags and of the members are always allowed")
}

// scrubFlags set how often a database node reads everything that it stores.
type scrubFlags struct{ interval time.Duration }

func (s *scrubFlags) register(flags *pflag.FlagSet) {
	flags.DurationVar(&s.interval, "scrub-interval", server.DefaultScrubInterval, "how often a database node reads all its files, at a low rate, to find damage; 0 for never")
}

// value returns the interval for server.DatabaseConfig, in which zero is the default.
func (s *scrubFlags) value() (time.Duration, error) {
	switch {
	case s.interval < 0:
		return 0, usageErrorf("--scrub-interval %v is negative; use at least 1s, or 0 for never", s.interval)
	case s.interval == 0:
		return -1, nil
	}
	return s.interval, server.CheckScrubInterval(s.interval)
}

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
