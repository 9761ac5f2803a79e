package integration

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// TestServe_Processors: a database node has places for goroutines that wait for a page of its
// store.
func TestServe_Processors(t *testing.T) {
	t.Setenv("GOMAXPROCS", "") // which nodes would leave alone
	before := runtime.GOMAXPROCS(0)
	runtime.SetDefaultGOMAXPROCS()
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before)
	p := clustertest.NewProcesses(t, bin, 1, 0)
	p.StartAll()
	p.WaitReady()
	resp, err := http.Get(p.DBs[0].URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("\ngo_sched_gomaxprocs_threads %d\n", max(n, min(4*n, 32)))
	if !strings.Contains(string(text), want) {
		t.Errorf("no line %q among the metrics", strings.TrimSpace(want))
	}
}
