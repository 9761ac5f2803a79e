package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// openDir opens a store in dir and closes it with the test.
func openDir(t testing.TB, dir string, cfg StoreConfig) *Store {
	t.Helper()
	s, err := OpenStoreDir(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// fillDir makes a store directory from a script and returns its model.
func fillDir(t testing.TB, dir string, seed uint64) ([]entry, *model) {
	t.Helper()
	log, m := script(t, seed, 60)
	s := openDir(t, dir, StoreConfig{})
	for i := range log {
		mustApply(t, s, &log[i])
		if i%10 == 0 {
			if err := s.FlushIndex(); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.check(t, s)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return log, m
}

func TestStoreDir_Reopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, m := fillDir(t, dir, 30)
	s := openDir(t, dir, StoreConfig{})
	m.check(t, s)
	if _, err := OpenStoreDir(dir, StoreConfig{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("a second opener: %v", err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("key/001"); !errors.Is(err, ErrClosed) {
		t.Fatalf("Get after Close: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
		t.Fatal(err)
	}
	m.check(t, openDir(t, dir, StoreConfig{}))
}

func TestStoreDir_StageInstall(t *testing.T) {
	t.Parallel()
	log, m := script(t, 31, 80)
	sender, dir := openDir(t, t.TempDir(), StoreConfig{}), t.TempDir()
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	s := openDir(t, dir, StoreConfig{})
	if err := runLog(t, s, log[:20]); err != nil {
		t.Fatal(err)
	}
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), testFetch); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, dir, StoreConfig{})
	if err := s.Install(index, 7, meta, snapshot); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
	if _, err := os.Stat(filepath.Join(dir, stagingFile)); !os.IsNotExist(err) {
		t.Fatalf("staging is left behind: %v", err)
	}
}

func TestOpenBolt_RefusesTruncatedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fillDir(t, dir, 32)
	for _, name := range append(indexFiles(t, dir), historyFile) {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		used, advice := len(whole), "delete the directory index"
		if name == historyFile {
			used, advice = boltMetas(t, path)[0].used, "replacing it"
		}
		for _, n := range []int{0, 20, used / 2, used - 1} {
			if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenStoreDir(dir, StoreConfig{})
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.File != path {
				t.Fatalf("%s cut to %d of %d bytes: %v", name, n, len(whole), err)
			}
			if !strings.Contains(err.Error(), advice) {
				t.Fatalf("no advice in %q", err)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openDir(t, dir, StoreConfig{})
}

// indexFiles returns the files of the index in a store's directory, by their names there.
func indexFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, indexDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, filepath.Join(indexDir, e.Name()))
	}
	if len(names) < 2 {
		t.Fatalf("the index is %q", names)
	}
	return names
}

// A record whose bytes changed on disk is never served: opening or reading it
// names the file and where the record lies, and the store is dead.
func TestStoreDir_FlippedBitIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir, StoreConfig{})
	secret := bytes.Repeat([]byte("find me on disk "), 400) // too large for a bucket inside its parent's page
	if _, err := applyTo(s, 1, 1, [][]byte{testPut("k", "p", "", secret, time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, historyFile)
	flip := func(b []byte) int64 {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(whole, b)
		if at < 0 {
			t.Fatal("the value is not in the file")
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{whole[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		return int64(at)
	}
	at := flip(secret)
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	_, err := s.Get("k")
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) || corrupt.File != path || corrupt.Offset > at || corrupt.Offset < at-200 {
		t.Fatalf("flipped at %d: %v", at, err)
	}
	if rerr := <-done; rerr != err {
		t.Fatalf("Run returned %v", rerr)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStoreDir(dir, StoreConfig{}); !errors.As(err, &corrupt) || corrupt.File != path {
		t.Fatalf("the rebuild scanned over it: %v", err)
	}
}

// Whatever a flipped byte does to a page, the store opens with the right values,
// refuses, or stops; it never serves a wrong byte and never crashes.
func TestStoreDir_NoFlippedByteIsServed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir, StoreConfig{})
	m := newModel()
	for i := range uint64(3) {
		e := entry{index: i + 1}
		for j := range 100 {
			e.commands = append(e.commands, testPut(Key(fmt.Sprint("key ", i, " ", j)), "p", "", bytes.Repeat([]byte{byte(j)}, 50), time.Unix(0, 0)))
		}
		e.want = m.apply(t, e.commands)
		mustApply(t, s, &e)
		if err := s.FlushIndex(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	index, path := filepath.Join(dir, indexDir), filepath.Join(dir, historyFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	meta := boltMetas(t, path)[0]
	for page := 0; page < meta.used; page += meta.pageBytes {
		for _, off := range []int{0, 7, 8, 9, 10, 12, 16, 17, 20, 24, 40, 57, 300, 2000} {
			damaged := bytes.Clone(whole[:meta.used])
			damaged[page+off] ^= 0x10
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			where := fmt.Sprintf("page %d offset %d", page/meta.pageBytes, off)
			readDamaged(t, dir, m, where, true)
			if err := os.Rename(index, index+".kept"); err != nil { // now all of it is scanned
				t.Fatal(err)
			}
			readDamaged(t, dir, m, where+" without an index", true)
			if err := errors.Join(os.RemoveAll(index), os.Rename(index+".kept", index)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range indexFiles(t, dir) {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(whole); off += 1 + len(whole)/100 {
			damaged := bytes.Clone(whole)
			damaged[off] ^= 0x10
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			readDamaged(t, dir, m, fmt.Sprintf("%s offset %d", name, off), false)
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// readDamaged reads every key of a damaged store: each answer is the right value, an
// error that says what is damaged, or, where the last transaction may be lost, "not set".
func readDamaged(t *testing.T, dir string, m *model, where string, lost bool) {
	t.Helper()
	s, err := OpenStoreDir(dir, StoreConfig{})
	if err != nil {
		return
	}
	defer s.Close()
	for key, want := range m.keys {
		v, err := s.Get(key)
		if err == nil && (v.Meta != want.meta || !bytes.Equal(readAll(t, v), want.value)) {
			t.Fatalf("%s: Get(%q) served a wrong value", where, key)
		}
		var corrupt *CorruptError
		if err != nil && !(lost && errors.Is(err, ErrNotFound)) && !errors.As(err, &corrupt) {
			t.Fatalf("%s: Get(%q): %v", where, key, err)
		}
	}
}

// A file that shrinks under a running store is reported, not a crash.
func TestStoreDir_TruncatedWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir, StoreConfig{})
	var cmds [][]byte
	for i := range 2000 {
		cmds = append(cmds, testPut(Key(fmt.Sprint("key ", i)), "p", "", make([]byte, 500), time.Unix(0, 0)))
	}
	if _, err := applyTo(s, 1, 1, cmds, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, historyFile), 64<<10); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := 0; i < 2000 && err == nil; i++ {
		_, err = s.Get(Key(fmt.Sprint("key ", i)))
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("got %v", err)
	}
}

// An index entry that names another key's revision is found out by the record.
func TestStoreDir_WrongIndexEntryIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir, StoreConfig{})
	if _, err := applyTo(s, 1, 1, [][]byte{testPut("a", "p", "", nil, time.Unix(0, 0)), testPut("b", "p", "", nil, time.Unix(0, 0))}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	mark := s.index.Mark()
	if err := errors.Join(s.Close(), os.RemoveAll(filepath.Join(dir, indexDir))); err != nil {
		t.Fatal(err)
	}
	wrong, err := openIndexIn(keyruns.OSFiles(filepath.Join(dir, indexDir)))
	if err != nil {
		t.Fatal(err)
	}
	addKeys(t, wrong, []string{"a", "b"}, []uint64{2, 2}, mark)
	if err := wrong.Close(); err != nil {
		t.Fatal(err)
	}
	s = openDir(t, dir, StoreConfig{})
	var corrupt *CorruptError
	if _, err := s.Get("a"); !errors.As(err, &corrupt) || corrupt.File != filepath.Join(dir, indexDir) || !strings.Contains(err.Error(), "delete the directory index") {
		t.Fatalf("got %v", err)
	}
	if _, err := s.Get("b"); !errors.Is(err, corrupt) {
		t.Fatalf("the store goes on: %v", err)
	}
}

// A crash after the last write of an install leaves a staging file behind.
func TestStoreDir_DropsStagingOfACompleteInstall(t *testing.T) {
	t.Parallel()
	log, _ := script(t, 33, 20)
	sender, dir := openDir(t, t.TempDir(), StoreConfig{}), t.TempDir()
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	s := openDir(t, dir, StoreConfig{})
	s.cfg.RemoveStaging = func() error { return engine.ErrInjected }
	if err := catchUp(t, s, index, meta, snapshot, sender); !errors.Is(err, engine.ErrInjected) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, stagingFile)); err != nil {
		t.Fatal(err)
	}
	openDir(t, dir, StoreConfig{})
	if _, err := os.Stat(filepath.Join(dir, stagingFile)); !os.IsNotExist(err) {
		t.Fatalf("staging is left behind: %v", err)
	}
}

// Random flushes into a real index, many block splits, then everything is compared.
func TestStoreDir_RandomFlushes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := StoreConfig{MemtableBytes: 200000, GenerationBytes: 50000, CommitBytes: 100000, PendingBytes: 300000}
	s, err := OpenStoreDir(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	seen := map[Key]bool{}
	idx := uint64(0)
	for range 250 {
		var cmds [][]byte
		base := r.IntN(1 << 16)
		for j := range 150 {
			var k Key
			switch r.IntN(4) {
			case 0:
				k = Key(fmt.Sprintf("%08x", r.Uint32()))
			case 1:
				k = Key(fmt.Sprintf("seq/%06d/%04d", base, j))
			case 2:
				k = Key(fmt.Sprintf("p/%0*d", 1+r.IntN(1000), r.IntN(1000)))
			default:
				k = Key(fmt.Sprintf("%c", 1+r.IntN(200)))
			}
			if seen[k] || k.Validate() != nil {
				continue
			}
			seen[k] = true
			cmds = append(cmds, testPut(k, "id", "", make([]byte, r.IntN(80)), time.Unix(0, 0)))
		}
		idx++
		if _, err := applyTo(s, idx, 1, cmds, nil); err != nil {
			t.Fatal(err)
		}
		if r.IntN(60) == 0 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = OpenStoreDir(dir, cfg); err != nil {
				t.Fatal(err)
			}
			// what was not committed is gone
			idx = s.Stats().AppliedIndex
			seen = map[Key]bool{}
			page := KeysRequest{Limit: 5000, LimitBytes: 1 << 30}
			for {
				p, err := s.Keys(t.Context(), page)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range p.Keys {
					if seen[m.Key] || m.Key <= page.After {
						t.Fatalf("%q twice or out of order", m.Key)
					}
					seen[m.Key] = true
					page.After = m.Key
				}
				if !p.More {
					break
				}
			}
			if Revision(len(seen)) != s.Stats().Revision {
				t.Fatalf("%d keys, revision %d", len(seen), s.Stats().Revision)
			}
		}
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	for k := range seen {
		if _, err := s.Get(k); err != nil {
			t.Fatalf("%q: %v", k, err)
		}
		if _, err := s.Get(k + "!"); err != ErrNotFound && !seen[k+"!"] {
			t.Fatalf("%q!: %v", k, err)
		}
	}
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(len(seen), s.Stats().IndexBytes, s.Stats().HistoryBytes)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
