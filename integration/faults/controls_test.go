package faults

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/broken"
)

// controls break what no simulation covers: the cache tier.
var controls = []broken.Control{
	{Name: "a reader joins a load that is older than he is", File: "cachetier/load.go",
		Old: "if !errors.Is(f.err, errAbsent) || f.start >= arrived {", New: "if !errors.Is(f.err, errAbsent) || f.start >= arrived || f != nil {"},
	{Name: "an absence is kept", File: "cachetier/load.go",
		Old: "func (t *tier) load(ctx context.Context, e *era, key kvstore.Key, arrived uint64) (*record, string, error) {\n",
		New: `func (t *tier) load(ctx context.Context, e *era, key kvstore.Key, arrived uint64) (*record, string, error) {
	known := <-absences
	gone := known[key]
	absences <- known
	if gone {
		return nil, "", errAbsent
	}
	rec, source, err := t.loadAnew(ctx, e, key, arrived)
	if errors.Is(err, errAbsent) {
		known := <-absences
		known[key] = true
		absences <- known
	}
	return rec, source, err
}

var absences = make(chan map[kvstore.Key]bool, 1)

func init() { absences <- map[kvstore.Key]bool{} }

func (t *tier) loadAnew(ctx context.Context, e *era, key kvstore.Key, arrived uint64) (*record, string, error) {
`},
}

var violationOf = regexp.MustCompile(`VIOLATION .*`)

// TestControls_Apply: each control still breaks the current program.
func TestControls_Apply(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	broken.Check(t, root, controls)
}

// TestControls: an episode finds each way to break the cache tier.
func TestControls(t *testing.T) {
	if !run.controls {
		t.Skip("builds the program anew; -controls runs it")
	}
	needsMachine(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "./integration/faults", "-run", "Episode", "-row", "^leader-transfer$", "-episodes", "5")
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "GOFLAGS=-overlay="+c.Overlay(t, root)) // for what the episodes build
			began := time.Now()
			output, err := cmd.CombinedOutput()
			violation := violationOf.Find(output)
			if err == nil || violation == nil {
				t.Fatalf("not found: %v, %.3000s", err, output)
			}
			t.Logf("found after %v: %s", time.Since(began).Round(time.Second), violation)
		})
	}
}
