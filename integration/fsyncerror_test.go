package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// exitDisk is the exit code of a node whose disk failed.
const exitDisk = 6

// endsByDisk expects a node to end because of its disk and to log all words.
func endsByDisk(t *testing.T, n *clustertest.Process, words ...string) {
	t.Helper()
	if code := n.Wait(); code != exitDisk {
		t.Errorf("exit code %d, want %d", code, exitDisk)
	}
	for _, word := range words {
		if !strings.Contains(n.Log(), word) {
			t.Errorf("it does not mention %q:\n%s", word, n.Log())
		}
	}
	lines := strings.Split(strings.TrimSpace(n.Log()), "\n")
	t.Logf("it said: %s", lines[len(lines)-1])
}

// refusesDisk checks that a node whose disk failed does not start again on what the system
// shows of it, and removes the mark.
func refusesDisk(t *testing.T, n *clustertest.Process, file string) {
	t.Helper()
	mark := filepath.Join(n.Dir, "failed")
	n.Start()
	endsByDisk(t, n, mark, file, "input/output error", "remove the member", "unmount")
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
}

// The disk fails an fsync of a file of a running node.
func TestDisk_FsyncFails_NodeStaysDown(t *testing.T) {
	t.Parallel()
	clustertest.NeedsTracer(t)
	for _, file := range []string{"wal/*.wal", "snap", "history.db"} {
		t.Run(strings.ReplaceAll(file, "/", "-"), func(t *testing.T) {
			p := clustertest.NewProcesses(t, bin, 1, 0, "--snapshot-log-bytes", "1000")
			n := p.DBs[0]
			p.StartAll()
			w := startWriter(t, "before", 2, n.URL())
			w.waitFor(50)
			acked := w.stop()
			path := newest(t, n.Dir, file)
			tr := clustertest.Tamper(t, n.PID(), "error=EIO", path)
			more := startWriterUntilError(t, "while", n)
			endsByDisk(t, n, path, "input/output error")
			tr.End()
			for key, value := range more() {
				acked[key] = value
			}
			refusesDisk(t, n, path)
			n.Start()
			n.WaitReady()
			mustHave(t, acked, n)
		})
	}
}

// The disk fails the fsync of what a start found, or makes.
func TestDisk_FsyncFailsAtTheStart_NodeStaysDown(t *testing.T) {
	t.Parallel()
	clustertest.NeedsTracer(t)
	p := clustertest.NewProcesses(t, bin, 1, 0)
	n := p.DBs[0]
	first := func(path string) {
		t.Helper()
		n.Under = clustertest.FailingFlushes(filepath.Join(n.Dir, path))
		n.Start()
		endsByDisk(t, n, strings.TrimSuffix(path, ".new"), "input/output error")
		n.Under = nil
		refusesDisk(t, n, strings.TrimSuffix(path, ".new"))
	}
	for _, path := range []string{"history.db.new", "index", "identity.tmp"} {
		if err := os.RemoveAll(n.Dir); err != nil {
			t.Fatal(err)
		}
		first(path)
	}
	n.Start()
	n.WaitReady()
	w := startWriter(t, "disk", 2, n.URL())
	w.waitFor(20)
	acked := w.stop()
	n.Kill9()
	for _, glob := range []string{"identity", "history.db", "index", "wal/*.wal", "wal", "snap/*.snap", "snap", "."} {
		path, err := filepath.Rel(n.Dir, newest(t, n.Dir, glob))
		if err != nil {
			t.Fatal(err)
		}
		if path == "." {
			path = ""
		}
		first(path)
	}
	n.Start()
	n.WaitReady()
	mustHave(t, acked, n)
}

// A process that was killed in its fsync has left data that the page cache shows and the disk
// may not have. The next process syncs all of it before it talks to anybody.
func TestDisk_StartSyncsWhatItFinds(t *testing.T) {
	t.Parallel()
	clustertest.NeedsTracer(t)
	n := stopped(t)
	trace := filepath.Join(t.TempDir(), "trace")
	n.Under = []string{"strace", "-D", "-f", "-y", "-o", trace, "-e", "trace=fsync,fdatasync,connect,sendto,write"}
	n.Start()
	n.WaitReady()
	n.Kill9()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	// The first promise to anybody, because the node has no peers. Before it, the node may
	// have answered that it is not ready yet.
	promise := regexp.MustCompile(`<socket:[^>]*>, "HTTP/1\.1 200`).FindIndex(b)
	if promise == nil {
		t.Fatalf("nobody was answered: %s", b)
	}
	synced := b[:promise[0]]
	for _, glob := range []string{"wal/*.wal", "wal", "snap/*.snap", "snap", "identity", "history.db", "index", "."} {
		path := newest(t, n.Dir, glob)
		if !regexp.MustCompile(`sync\(\d+<` + regexp.QuoteMeta(path) + `>`).Match(synced) {
			t.Errorf("%s was not synced before the first answer", path)
		}
	}
}
