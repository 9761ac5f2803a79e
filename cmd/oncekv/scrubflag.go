package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/server"
)

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
