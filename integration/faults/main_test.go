package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// options are the flags of a run, and what TestMain prepares for it.
type options struct {
	episodes  int
	seed      uint64
	rows      string
	hold      time.Duration
	lasting   time.Duration
	tolerance float64
	artifacts string
	controls  bool

	bin     string // the built program
	janitor *janitor
}

// run is set by TestMain and never changed after that.
var run options

func TestMain(m *testing.M) {
	if os.Getenv(janitorEnv) != "" {
		os.Exit(beJanitor(os.Stdin))
	}
	flag.IntVar(&run.episodes, "episodes", 1, "episodes of each row")
	flag.Uint64Var(&run.seed, "seed", 1, "seed of the first episode; the next one adds 1")
	flag.StringVar(&run.rows, "row", "", "only rows that match this regular expression")
	flag.DurationVar(&run.hold, "hold", 0, "how long a fault may be held at most; short holds by default")
	flag.DurationVar(&run.lasting, "for", 0, "go on with episodes for so long")
	flag.Float64Var(&run.tolerance, "tolerance", 0, "how many times longer than promised a recovery may take: 1 on a machine with nothing else to do; 0: no judgement")
	flag.BoolVar(&run.controls, "controls", false, "break the cache tier in every known way, and see it found")
	flag.StringVar(&run.artifacts, "keep", "", "directory for logs and histories of failed episodes (default a temporary one)")
	_ = flag.Set("test.parallel", "4") // unless given: most of an episode waits
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	if os.Getenv("ONCEKV_TEST_FULL") == "" {
		return m.Run() // everything skips
	}
	dir, err := os.MkdirTemp("", "oncekv-faults-")
	if err == nil {
		defer os.RemoveAll(dir)
		run.bin, err = clustertest.Binary(dir)
	}
	if err == nil && run.artifacts == "" {
		run.artifacts, err = os.MkdirTemp("", "oncekv-faults-failed-")
		defer os.Remove(run.artifacts) // if it is empty
	}
	if err == nil {
		run.janitor, err = startJanitor()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer run.janitor.end()
	return m.Run()
}
