package server

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/kvstore"
)

// filesNode is a node of a single-node cluster whose directory the tests spoil.
type filesNode struct {
	dir  string
	keys int // acknowledged
}

func (n filesNode) start(t *testing.T) (*Database, error) {
	t.Helper()
	return StartDatabase(t.Context(), DatabaseConfig{Name: "n1", DataDir: n.dir, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", PeerAdvertise: "http://127.0.0.1:12000", SnapshotLogBytes: 30 << 10})
}

// live starts the node, sets keys up to upTo, and finds every key that was ever set. If the
// node does not start, it returns why.
func (n *filesNode) live(t *testing.T, upTo int) error {
	t.Helper()
	db, err := n.start(t)
	if err != nil {
		return err
	}
	defer db.Close(context.Background())
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for db.Ready(t.Context()) != nil {
		select {
		case <-db.Done():
			return db.Err()
		case <-t.Context().Done():
			t.Fatal("it neither gets ready nor stops")
		case <-look.C:
		}
	}
	grown := n.keys < upTo
	for ; n.keys < upTo; n.keys++ {
		if _, err := db.db.Put(t.Context(), kvstore.PutRequest{Key: filesKey(n.keys), Body: bytes.NewReader(filesValue(n.keys)), Size: -1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.store.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	for i := range n.keys {
		v, err := db.db.Get(t.Context(), filesKey(i), kvstore.Linearizable)
		if err != nil {
			t.Errorf("%s was acknowledged: %v", filesKey(i), err)
			continue
		}
		if b, inMemory := v.Bytes(); !inMemory || !bytes.Equal(b, filesValue(i)) {
			t.Errorf("%s has other bytes", filesKey(i))
		}
	}
	for grown && upTo > snapshotKeys && n.snapshots(t) < 2 { // so that there is a snapshot besides the first
		<-look.C
	}
	return nil
}

// snapshotKeys are enough puts for a snapshot.
const snapshotKeys = 20

func (n *filesNode) snapshots(t *testing.T) int {
	names, err := filepath.Glob(filepath.Join(n.dir, "snap", "*.snap"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func filesKey(i int) kvstore.Key { return kvstore.Key(fmt.Sprintf("key/%d", i)) }
func filesValue(i int) []byte {
	if i%4 == 1 { // a body
		return bytes.Repeat([]byte{byte(i)}, 20<<10)
	}
	return bytes.Repeat([]byte{byte(i)}, 5<<10)
}

func copyDir(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// copyOver copies a file or a directory, and returns false if from does not exist.
func copyOver(t *testing.T, to, from string) bool {
	t.Helper()
	st, err := os.Stat(from)
	if err != nil {
		return false
	}
	if st.IsDir() {
		copyDir(t, to, from)
		return true
	}
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// contents returns the files of a directory by path.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || e.IsDir() {
			all[name] = "a directory"
			return err
		}
		b, err := os.ReadFile(path)
		all[name] = string(b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// spoil brings a file into a state. It returns false if the file cannot have that state.
func spoil(t *testing.T, state, dir, file, from string) bool {
	t.Helper()
	path := filepath.Join(dir, file)
	whole, err := os.ReadFile(path)
	isDir := err != nil
	done := os.RemoveAll(path)
	switch state {
	case "missing":
	case "empty":
		if isDir {
			done = os.Mkdir(path, 0o700)
		} else {
			done = os.WriteFile(path, nil, 0o600)
		}
	case "half":
		if isDir {
			return false
		}
		done = os.WriteFile(path, whole[:len(whole)/2], 0o600)
	case "other kind":
		if isDir {
			done = os.WriteFile(path, []byte("something"), 0o600)
		} else {
			done = os.Mkdir(path, 0o700)
		}
	default:
		return copyOver(t, path, filepath.Join(from, file))
	}
	if done != nil {
		t.Fatal(done)
	}
	return true
}

// Every file of a data directory in every state in which a careless hand, a restore or a
// disk may leave it. Either the node starts and has every key that it ever acknowledged, or
// it refuses in a sentence that says what to do, changes nothing, and starts with all keys
// once the right file is back.
func TestDataDir_EveryFileInEveryState(t *testing.T) {
	segment := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 64 << 10
	t.Cleanup(func() { wal.SegmentSizeBytes = segment })
	home := t.TempDir()
	good := &filesNode{dir: filepath.Join(home, "good")}
	older := filepath.Join(home, "older")
	if err := good.live(t, 8); err != nil {
		t.Fatal(err)
	}
	copyDir(t, older, good.dir)
	if err := good.live(t, 40); err != nil {
		t.Fatal(err)
	}
	other := &filesNode{dir: filepath.Join(home, "other")}
	if err := other.live(t, 60); err != nil {
		t.Fatal(err)
	}
	// The identity from before the node had formed its cluster.
	unborn := filepath.Join(home, "unborn")
	b, err := os.ReadFile(filepath.Join(good.dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte(",\n  \"started\": true"), nil, 1)
	if err := os.Mkdir(unborn, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(unborn, "identity"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	files := slices.DeleteFunc(slices.Sorted(maps.Keys(contents(t, good.dir))), func(name string) bool {
		return name == "." || strings.HasSuffix(name, ".tmp")
	})
	t.Logf("files: %v", files)
	t.Run("", func(t *testing.T) {
		for _, file := range append(files, "identity.tmp", "history.db.new", "index.db", "index.db.new", "sort.tmp", "staging.db", "wal.tmp", "failed") {
			for _, state := range []string{"missing", "empty", "half", "other kind", "older", "other", "unborn"} {
				n := *good
				n.dir = filepath.Join(t.TempDir(), "data")
				copyDir(t, n.dir, good.dir)
				if !spoil(t, state, n.dir, file, filepath.Join(home, state)) {
					continue
				}
				t.Run(file+" "+state, func(t *testing.T) {
					t.Parallel()
					startSpoiled(t, n, file, good.dir)
				})
			}
		}
	})
}

func startSpoiled(t *testing.T, n filesNode, file, good string) {
	before := contents(t, n.dir)
	err := n.live(t, n.keys)
	if err == nil {
		t.Log("it starts")
		return
	}
	t.Logf("it refuses: %v", err)
	if !slices.ContainsFunc([]string{"replac", "put back", "put it back", "delete", "move it away"}, func(word string) bool { return strings.Contains(err.Error(), word) }) {
		t.Error("and does not say what to do")
	}
	after := contents(t, n.dir)
	for name, was := range before {
		now, ok := after[name]
		if torn := after[name+".broken"]; ok && torn != "" { // the torn end, kept aside
			at := strings.Index(was, torn)
			now = now[:at] + torn + now[at+len(torn):]
		}
		if !ok || now != was {
			t.Errorf("the refused start changed %s (%d bytes, now %d, there: %v)", name, len(was), len(now), ok)
		}
	}
	if err := os.RemoveAll(filepath.Join(n.dir, file)); err != nil {
		t.Fatal(err)
	}
	copyOver(t, filepath.Join(n.dir, file), filepath.Join(good, file))
	if err := n.live(t, n.keys); err != nil {
		t.Errorf("with the right file in its place: %v", err)
	}
}
