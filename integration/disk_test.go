package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

// refusesToStart expects a node to end by itself with all words in its log.
func refusesToStart(t *testing.T, n *clustertest.Process, words ...string) {
	t.Helper()
	n.Start()
	if code := n.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, word := range words {
		if !strings.Contains(n.Log(), word) {
			t.Errorf("it does not mention %q:\n%s", word, n.Log())
		}
	}
	t.Logf("it said: %s", strings.TrimSpace(n.Log()))
}

// stopped runs a node for a while, then stops it so that its directory can be damaged.
func stopped(t *testing.T) *clustertest.Process {
	t.Helper()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	p.StartAll()
	w := startWriter(t, "disk", 4, p.DBs[0].URL())
	w.waitFor(100)
	w.stop()
	p.DBs[0].Kill9()
	return p.DBs[0]
}

func newest(t *testing.T, dir, glob string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s: %v", glob, dir, err)
	}
	return names[len(names)-1]
}

// Invariant 8.
func TestDisk_FlippedByteInWAL_RefusesToStart(t *testing.T) {
	t.Parallel()
	n := stopped(t)
	segment := newest(t, n.Dir, "wal/*.wal")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("value of disk/0/1"))
	if at < 0 {
		t.Fatal("the WAL does not hold the value")
	}
	b[at] ^= 0x01
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, n, segment, "offset", "replace")
}

func TestDisk_TruncatedHistory_RefusesToStart(t *testing.T) {
	t.Parallel()
	n := stopped(t)
	file := filepath.Join(n.Dir, "history.db")
	if err := os.Truncate(file, 9000); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, n, file, "replac")
}

// flushIndex moves all keys of a stopped node into index runs, as in a node that has many.
func flushIndex(t *testing.T, dir string) {
	t.Helper()
	store, err := kvstore.OpenStoreDir(dir, kvstore.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.FlushIndex(), store.Close()); err != nil {
		t.Fatal(err)
	}
}

// A damaged index is derived data: the node says to delete it, and that works.
func TestDisk_TruncatedIndex_IsRebuilt(t *testing.T) {
	t.Parallel()
	n := stopped(t)
	n.Start() // it commits to history on its way out
	n.WaitReady()
	if code, _ := n.Terminate(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	flushIndex(t, n.Dir)
	file := newest(t, n.Dir, "index/*.run")
	if err := os.Truncate(file, 500); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, n, file, "delete the directory index")
	if err := os.RemoveAll(filepath.Join(n.Dir, "index")); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.WaitReady()
	mustHave(t, map[string]string{"disk/0/1": "value of disk/0/1"}, n)
}

// The index of an earlier version is never read, whatever it contains, and is removed.
func TestDisk_IndexOfAnEarlierVersion_IsRemoved(t *testing.T) {
	t.Parallel()
	n := stopped(t)
	file := filepath.Join(n.Dir, "index.db")
	if err := os.WriteFile(file, []byte("what no version reads any more"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.WaitReady()
	mustHave(t, map[string]string{"disk/0/1": "value of disk/0/1"}, n)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
}

// A value whose bytes change under a running node is never served: the node stops. The others
// have the value.
func TestDisk_DamagedValue_StopsTheNode(t *testing.T) {
	for file, size := range map[string]int{"history.db": 10 << 10, "values/00000001.values": 700 << 10} {
		t.Run(filepath.Base(file), func(t *testing.T) { damageValue(t, file, size) })
	}
}

// damageValue changes a bit of a value of that size in a file of the node.
func damageValue(t *testing.T, name string, size int) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	value := string(pattern("damage", size))
	cl := clustertest.Client(t, p.DBs[0].URL())
	if _, err := cl.PutBytes(clustertest.WithTimeout(t), "victim", []byte(value), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	n := p.DBs[0]
	if code, _ := n.Terminate(); code != 0 { // so that the file holds it
		t.Fatalf("exit code %d", code)
	}
	file := filepath.Join(n.Dir, name)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(value[:64]))
	if at < 0 {
		t.Fatalf("%s does not hold the value", name)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at+1000] ^ 1}, int64(at+1000)); err != nil {
		t.Fatal(err)
	}
	n.Start()
	// The node may notice at once (it scans the tail at start) or at the first read.
	clustertest.Eventually(t, "the node stops", func() error {
		if !n.Running() {
			return nil
		}
		got, err := get(clustertest.Client(t, n.URL(), p.DBs[1].URL()), "victim")
		if err == nil && got != value {
			t.Fatal("it served a damaged value")
		}
		return fmt.Errorf("it still runs: %v", err)
	})
	if !strings.Contains(n.Log(), file) {
		t.Errorf("it does not name %s:\n%s", file, n.Log())
	}
	mustHave(t, map[string]string{"victim": value}, p.DBs[1], p.DBs[2])
}

// On a small disk, puts are refused while there is still room to stay consistent, and reads go
// on. A full disk refuses bodies. If the node cannot write its log, its history or a snapshot,
// it stops rather than guess, and comes back when there is room.
func TestDisk_Full(t *testing.T) {
	t.Parallel()
	full(t, "needs root to mount a small file system")
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	mountSmall(t, small)
	p := clustertest.NewProcesses(t, bin, 1, 0, "--disk-reserve-bytes", "100MiB")
	n := p.DBs[0]
	n.Args = append(n.Args, "--data-dir", filepath.Join(small, "n1"))
	p.StartAll()
	cl := clustertest.Client(t, n.URL())
	ctx := clustertest.WithTimeout(t)
	var refused error
	pace := time.NewTicker(20 * time.Millisecond) // the free space is looked at ten times a second
	defer pace.Stop()
	for i := 0; i < 200 && refused == nil; i++ {
		_, refused = cl.PutBytes(ctx, fmt.Sprintf("fill/%d", i), pattern(fmt.Sprint(i), 1<<20), client.PutOptions{})
		<-pace.C
	}
	if refused == nil || !strings.Contains(refused.Error(), "reserve") {
		t.Fatalf("the disk is nearly full and puts end with %v", refused)
	}
	t.Logf("refused: %v", refused)
	mustHave(t, map[string]string{"fill/0": string(pattern("0", 1<<20))}, n)
	n.Kill9()
	// Fill the disk to the last byte, and let the node try without a reserve.
	filler := filepath.Join(small, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		if _, err := f.Write(buf); err != nil {
			break
		}
	}
	_ = f.Close()
	n.Args = append(n.Args, "--disk-reserve-bytes", "0")
	n.Start()
	clustertest.Eventually(t, "a large value is refused", func() error {
		if !n.Running() { // it wanted to write a snapshot before
			return nil
		}
		key := fmt.Sprintf("refused/%d", time.Now().UnixNano())
		_, err := cl.PutBytes(ctx, key, pattern(key, 300_000), client.PutOptions{})
		if !errors.Is(err, api.ErrDiskReserve) {
			return fmt.Errorf("the put ended with %v", err)
		}
		return nil
	})
	w := startWriterUntilError(t, "full", n)
	if code := n.Wait(); code != 1 || !strings.Contains(n.Log(), "no space left") {
		t.Errorf("on a full disk: exit code %d, said:\n%s", code, n.Log())
	}
	acked := w()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.WaitReady()
	mustHave(t, acked, n)
	mustHave(t, map[string]string{"fill/0": string(pattern("0", 1<<20))}, n)
	t.Logf("%d puts were acknowledged before it stopped", len(acked))
}

// startWriterUntilError puts until the node is gone. The function that it returns waits for
// that and returns what was acknowledged.
func startWriterUntilError(t *testing.T, prefix string, n *clustertest.Process) func() map[string]string {
	acked := map[string]string{}
	done := make(chan struct{})
	cl := clustertest.Client(t, n.URL())
	go func() {
		defer close(done)
		for i := 0; n.Running(); i++ {
			key := fmt.Sprintf("%s/%d", prefix, i)
			value := string(pattern(key, 10_000)) // in the log and in the history
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			_, err := cl.PutBytes(ctx, key, []byte(value), client.PutOptions{})
			cancel()
			if err == nil {
				acked[key] = value
			}
		}
	}()
	return func() map[string]string {
		<-done
		return acked
	}
}

func TestDisk_DirectoryInUse_IsRefused(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	p.StartAll()
	second := p.Joiner("n1", p.DBs[0])
	second.Dir = p.DBs[0].Dir
	second.Args = []string{"serve", "--name", "n1", "--listen", second.Addr, "--peer-listen", second.Peer, "--data-dir", second.Dir}
	refusesToStart(t, second, "in use", second.Dir)
	third := p.Joiner("other", p.DBs[0])
	p.DBs[0].Kill9()
	third.Args = []string{"serve", "--name", "other", "--listen", third.Addr, "--peer-listen", third.Peer, "--data-dir", p.DBs[0].Dir}
	refusesToStart(t, third, "belongs to node n1")
}
