package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// beforeFirstRelease are the fixtures of formats that no release had. Levels 0 and 1 differ:
// at level 1, large values are in the log.
var beforeFirstRelease = []string{"level-0-stopped", "level-0-killed", "level-1-stopped", "level-1-killed"}

// TestFixture opens every data directory that any program has left. A directory from before
// the first release is refused and stays as it is; all others are read completely, written to,
// and opened again.
func TestFixture(t *testing.T) { opensFixtures(t, fixtureDir) }

// opensFixtures opens each fixture in a directory, or is refused by it.
func opensFixtures(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, file := range files {
		path := strings.TrimSuffix(file, ".json")
		t.Run(filepath.Base(path), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var f fixture
			if err := json.Unmarshal(b, &f); err != nil {
				t.Fatal(err)
			}
			n := clustertest.NewProcesses(t, bin, 1, 0).DBs[0]
			if err := clustertest.Unpack(path+".tar.gz", n.Dir); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(beforeFirstRelease, filepath.Base(path)) {
				staysRefused(t, n)
				return
			}
			n.Start()
			n.WaitReady()
			f.isServed(t, n)
			if !acknowledged(n, "set-by-a-later-program", "value") {
				t.Fatal("it takes no put")
			}
			f.Revision, f.Keys, f.ValueBytes = f.Revision+1, f.Keys+1, f.ValueBytes+int64(len("value"))
			s, err := n.Stats()
			if err != nil {
				t.Fatal(err)
			}
			f.Digest = s.Digest
			if code, _ := n.Terminate(); code != 0 {
				t.Fatalf("it ended with code %d", code)
			}
			n.Start()
			n.WaitReady()
			f.isServed(t, n)
			mustHave(t, map[string]string{"set-by-a-later-program": "value"}, n)
		})
	}
}

// staysRefused starts a node on data from before the first release.
func staysRefused(t *testing.T, n *clustertest.Process) {
	t.Helper()
	was := treeOf(t, n.Dir)
	for range 2 {
		n.Start()
		clustertest.Eventually(t, "it refuses the data", func() error {
			if !n.Running() {
				return nil
			}
			if s, err := n.Stats(); err == nil && s.Ready {
				t.Fatalf("it serves the data; its log:\n%s", n.Log())
			}
			return errors.New("it runs")
		})
		if code := n.Wait(); code != 2 || !strings.Contains(n.Log(), "was written by a version of oncekv from before the first release") || !strings.Contains(n.Log(), "docs/operations.md") {
			t.Fatalf("it ended with code %d and said:\n%s", code, n.Log())
		}
		if is := treeOf(t, n.Dir); !maps.Equal(is, was) {
			t.Fatalf("the refusal changed the data: it was\n%v\nand is\n%v", was, is)
		}
	}
	t.Logf("%s", strings.TrimSpace(n.Log()))
}

// treeOf returns the digest of every file below a directory.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			tree[path] = "a directory"
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		tree[path] = hex.EncodeToString(h.Sum(nil))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// isServed reads everything in f from a node.
func (f *fixture) isServed(t *testing.T, n *clustertest.Process) {
	t.Helper()
	m := fixtureMaker{t: t, n: n, runs: f.Runs}
	is := m.describe()
	for _, c := range f.Checkpoints {
		if !slices.Contains(is.Checkpoints, c) {
			t.Errorf("checkpoints %v, want %v among them", is.Checkpoints, c)
		}
	}
	if is.Revision != f.Revision || is.Digest != f.Digest || is.Keys != f.Keys || is.ValueBytes != f.ValueBytes || is.OpenUploads != f.OpenUploads || !reflect.DeepEqual(is.History, f.History) {
		t.Fatalf("it has %d keys with %d bytes at revision %d, digest %s of history %v, and %d open uploads; want %d keys with %d bytes at revision %d, digest %s of history %v, and %d open uploads",
			is.Keys, is.ValueBytes, is.Revision, is.Digest, is.History, is.OpenUploads, f.Keys, f.ValueBytes, f.Revision, f.Digest, f.History, f.OpenUploads)
	}
	lines := map[uint64]map[string]any{}
	for _, r := range is.Records {
		line := r.fields(t)
		lines[uint64(line["revision"].(float64))] = line
	}
	for _, r := range f.Records {
		want := r.fields(t)
		got := lines[uint64(want["revision"].(float64))]
		for name, value := range want { // a later program may say more
			if !reflect.DeepEqual(got[name], value) {
				t.Errorf("%s of %v is %v", name, want, got[name])
			}
		}
		var c api.Record
		if err := json.Unmarshal(r.Line, &c); err != nil {
			t.Fatal(err)
		}
		m.reads(c, r.PutID)
	}
	for _, r := range f.Runs {
		for i := range r.Count {
			m.reads(r.record(i), r.put(i).putID)
		}
	}
	for _, key := range f.Unset {
		if _, err := get(clustertest.Client(t, n.URL()), key); !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%q is set: %v", key, err)
		}
	}
}

func (r *fixtureRecord) fields(t *testing.T) (fields map[string]any) {
	t.Helper()
	if err := json.Unmarshal(r.Line, &fields); err != nil {
		t.Fatal(err)
	}
	return fields
}

// reads gets a key, and repeats its put.
func (m *fixtureMaker) reads(want api.Record, putID string) {
	m.t.Helper()
	key, err := want.RawKey()
	if err != nil {
		m.t.Fatal(err)
	}
	p := fixturePut{key: key, putID: putID}
	resp, err := http.Get(p.url(m.n))
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	if p.value, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("get %q: %s, %v", key, resp.Status, err)
	}
	sum := sha256.Sum256(p.value)
	if hex.EncodeToString(sum[:]) != want.SHA256 || int64(len(p.value)) != want.Size || resp.Header.Get("Content-Type") != want.ContentType || resp.Header.Get(api.HeaderRevision) != fmt.Sprint(want.Revision) {
		m.t.Fatalf("%q is %d bytes with headers %v; want %+v", key, len(p.value), resp.Header, want)
	}
	if putID == "" {
		return
	}
	if code := m.send(p); code != http.StatusCreated {
		m.t.Errorf("put %q with its put id again: status %d", key, code)
	}
	p.putID = "another"
	if code := m.send(p); code != http.StatusOK {
		m.t.Errorf("put %q with another put id: status %d", key, code)
	}
}
