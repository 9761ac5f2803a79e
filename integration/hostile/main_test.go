package hostile

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// options are the flags of a run, and what TestMain prepares for it.
type options struct {
	attacks string
	bound   time.Duration
	keep    string

	bin   string // the built program, without the race detector
	clock *clock
}

// run is set by TestMain and never changed after that.
var run options

func TestMain(m *testing.M) {
	flag.StringVar(&run.attacks, "attack", "", "only attacks that match this regular expression")
	flag.DurationVar(&run.bound, "bound", 10*time.Second, "how long a bystander may wait for an answer, on a machine with nothing else to do: see clock")
	flag.StringVar(&run.keep, "keep", "", "directory for the logs of all nodes (default a temporary one)")
	_ = flag.Set("test.parallel", "3") // unless given: most of an attack waits
	flag.Parse()
	log.SetOutput(io.Discard) // net/http's clients complain of connections that a node closed
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oncekv-hostile-")
	if err == nil {
		defer os.RemoveAll(dir)
		run.bin, err = clustertest.PlainBinary(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	run.clock = newClock()
	defer run.clock.stop()
	return m.Run()
}
