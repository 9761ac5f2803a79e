package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/server"
)

// scrubFlags say how often a database node reads all that it keeps.
type scrubFlags struct{ interval time.Duration }

func (s *scrubFlags) register(flags *pflag.FlagSet) {
	flags.DurationVar(&s.interval, "scrub-interval", server.DefaultScrubInterval, "how often a database node reads all its files, at a low rate, to find damage; 0 for never")
}

// value is what server.DatabaseConfig takes, for which zero is the default.
func (s *scrubFlags) value() (time.Duration, error) {
	switch {
	case s.interval < 0:
		return 0, usageErrorf("--scrub-interval %v is negative; use at least 1s, or 0 for never", s.interval)
	case s.interval == 0:
		return -1, nil
	}
	return s.interval, server.CheckScrubInterval(s.interval)
}
