package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// writeTree makes files below dir, some large enough to be sent in chunks, and returns their
// contents by relative path.
func writeTree(t *testing.T, dir string, small, large int) map[string]string {
	t.Helper()
	files := map[string]string{}
	for i := range small {
		files[fmt.Sprintf("d%d/small file %d.txt", i%17, i)] = string(pattern(fmt.Sprint(i), 200+i))
	}
	for i := range large {
		files[fmt.Sprintf("large/%d.bin", i)] = string(pattern(fmt.Sprint("large", i), 1<<20+i*700_000))
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// importSummary is the final output of `oncekv import --json`.
type importSummary struct {
	Created, Unchanged, Conflict, Failed, Skipped importCount
	Seconds                                       float64
}

type importCount struct {
	Files int
	Bytes int64
}

// runImport imports a directory with the real program and returns its summary and exit code.
func runImport(dir, prefix string, urls []string) (s importSummary, code int, err error) {
	var out, talk bytes.Buffer
	cmd := exec.Command(bin, importArgs(dir, prefix, urls)...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return s, 0, err
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		return s, 0, fmt.Errorf("import printed %q, %q: %w", out.String(), talk.String(), err)
	}
	return s, cmd.ProcessState.ExitCode(), nil
}

func importArgs(dir, prefix string, urls []string) []string {
	return []string{"import", dir, "--prefix", prefix, "--json", "--endpoints", strings.Join(urls, ",")}
}

// Invariants 1, 2, 3, 5: an import survives the death of the leader, and all nodes store the
// same.
func TestKill_LeaderDuringImport(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 2)
	p.StartAll()
	dir := t.TempDir()
	files := writeTree(t, dir, 1200, 6)
	leader := p.Leader()
	type result struct {
		s    importSummary
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		s, code, err := runImport(dir, "in/", clustertest.URLs(p.DBs...))
		done <- result{s, code, err}
	}()
	clustertest.Eventually(t, "the import is on its way", func() error {
		s, err := leader.Stats()
		if err == nil && s.Revision < 200 {
			err = fmt.Errorf("revision %d", s.Revision)
		}
		return err
	})
	leader.Kill9()
	r := <-done
	if r.err != nil || r.code != 0 || r.s.Created.Files != len(files) {
		t.Fatalf("import of %d files while the leader died: %+v, exit code %d, %v", len(files), r.s, r.code, r.err)
	}
	leader.Start()
	p.WaitReady()
	want := map[string]string{}
	for name, content := range files {
		want["in/"+name] = content
	}
	mustHave(t, want, p.All()...)
	revision, digest := clustertest.SameHistory(t, p.DBs...)
	if revision != uint64(len(files)) {
		t.Errorf("%d revisions for %d files", revision, len(files))
	}
	t.Logf("killed %s; %+v; revision %d, digest %s on all three", leader.Name, r.s, revision, digest)
	if s, code, err := runImport(dir, "in/", clustertest.URLs(p.DBs...)); err != nil || code != 0 || s.Unchanged.Files != len(files) {
		t.Errorf("second import: %+v, exit code %d, %v; want everything unchanged", s, code, err)
	}
}

// Invariant 7: all nodes lose their memory at once; nothing acknowledged is lost.
func TestKill_AllAtOnce(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 1)
	p.StartAll()
	for round := range 2 {
		w := startWriter(t, fmt.Sprintf("all/%d", round), 8, clustertest.URLs(p.DBs...)...)
		w.waitFor(300)
		for _, d := range p.DBs {
			d.Kill9()
		}
		for _, d := range p.DBs {
			d.Start()
		}
		p.WaitReady()
		w.waitFor(100)
		acked := w.stop()
		mustHave(t, acked, p.All()...)
		revision, _ := clustertest.SameHistory(t, p.DBs...)
		t.Logf("round %d: %d puts acknowledged, revision %d", round, len(acked), revision)
	}
}

// stopMax bounds the stop of a process: many times the 4 s that it allows itself, which are
// for a machine that does nothing else.
const stopMax = 30 * time.Second

// A rolling restart shows no errors to a client that retries (the writer fails the test on the
// first).
func TestKill_RollingRestart(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	w := startWriter(t, "roll", 6, clustertest.URLs(p.DBs...)...)
	for _, d := range p.DBs {
		w.waitFor(50)
		code, took := d.Terminate()
		if code != 0 || took > stopMax {
			t.Errorf("%s: exit code %d after %v; want 0 within %v", d.Name, code, took, stopMax)
		}
		t.Logf("%s ended in %.1f s", d.Name, took.Seconds())
		d.Start()
		d.WaitReady()
	}
	w.waitFor(50)
	mustHave(t, w.stop(), p.DBs...)
	clustertest.SameHistory(t, p.DBs...)
}
