package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// TestServe_Processors: a database node has places for goroutines that wait for a
// page of its store.
func TestServe_Processors(t *testing.T) {
	if os.Getenv("GOMAXPROCS") != "" {
		t.Skip("GOMAXPROCS is set, so nodes leave it alone")
	}
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
	n := runtime.GOMAXPROCS(0)
	want := fmt.Sprintf("\ngo_sched_gomaxprocs_threads %d\n", max(n, min(4*n, 32)))
	if !strings.Contains(string(text), want) {
		t.Errorf("no line %q among the metrics", strings.TrimSpace(want))
	}
}
