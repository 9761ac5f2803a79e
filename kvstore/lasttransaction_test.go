package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damageNewestMeta spoils the meta page of the last transaction of a bbolt file:
// bbolt then opens the file as it was before that, and says nothing.
func damageNewestMeta(t *testing.T, path string) {
	t.Helper()
	newest := boltMetas(t, path)[0]
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xff}, int64(newest.at)+20); err != nil {
		t.Fatal(err)
	}
}

// stopAfter is a context that ends when it was asked so many times.
type stopAfter struct {
	context.Context
	left int
}

func (c *stopAfter) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// fallbackDir makes a directory in which history has the whole log, in two
// transactions, and the index the keys of the first, or of both. It returns the log and
// what is right.
func fallbackDir(t *testing.T, dir string, flushed bool) ([]entry, *model) {
	t.Helper()
	log, m := manyKeys(t, 40)
	s := openDir(t, dir, tiny())
	if err := runLog(t, s, log[:len(log)/2]); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushIndex(); err != nil {
		t.Fatal(err)
	}
	for i := len(log) / 2; i < len(log); i++ {
		mustApply(t, s, &log[i])
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if flushed {
		if err := s.FlushIndex(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return log, m
}

// bbolt goes back one transaction when the newest meta page is damaged. However far the
// index was written: the store says that the index is ahead, or it comes to the right
// state again.
func TestStoreDir_LastTransactionIsLost(t *testing.T) {
	t.Parallel()
	for _, flushed := range []bool{true, false} {
		t.Run(fmt.Sprint(flushed), func(t *testing.T) {
			dir := t.TempDir()
			log, m := fallbackDir(t, dir, flushed)
			damageNewestMeta(t, filepath.Join(dir, historyFile))
			before := filesOf(t, filepath.Join(dir, indexDir))
			s, err := OpenStoreDir(dir, tiny())
			if flushed != (err != nil) {
				t.Fatalf("open: %v", err)
			}
			if flushed {
				if !strings.Contains(err.Error(), "delete the directory index") {
					t.Fatalf("it does not say what to do: %v", err)
				}
				if after := filesOf(t, filepath.Join(dir, indexDir)); !maps.Equal(before, after) {
					t.Fatal("the index is another one")
				}
				if err := os.RemoveAll(filepath.Join(dir, indexDir)); err != nil {
					t.Fatal(err)
				}
				s = openDir(t, dir, tiny())
			}
			t.Cleanup(func() { _ = s.Close() })
			if err := runLog(t, s, log); err != nil {
				t.Fatal(err)
			}
			m.check(t, s)
			if err := errors.Join(s.FlushIndex(), s.Verify(t.Context())); err != nil {
				t.Fatal(err)
			}
			m.check(t, s)
		})
	}
}

// A history that lost its last transaction may have lost pulled records that staging
// counts on. They are pulled again.
func TestStoreDir_LastTransactionOfAPullIsLost(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 29, 60, 1)
	cfg := tiny()
	cfg.CommitBytes = 1500
	sender, taken := snapshotsOf(t, log, cfg)
	last := taken[len(taken)-1]
	for _, file := range []string{historyFile, stagingFile} {
		for _, whole := range []bool{false, true} {
			dir := t.TempDir()
			s := openDir(t, dir, cfg)
			if err := runLog(t, s, log[:10]); err != nil {
				t.Fatal(err)
			}
			var read int64
			err := s.Stage(t.Context(), last.snapshot, func(ctx ctxT, query string) (io.ReadCloser, error) {
				rc, err := serveFrom(sender)(ctx, query)
				if whole {
					return rc, err
				}
				return &cutReader{rc, 5000 - read, &read}, err
			}, testFetch)
			if whole != (err == nil) {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			damageNewestMeta(t, filepath.Join(dir, file))
			s = openDir(t, dir, cfg)
			if err := s.Stage(t.Context(), last.snapshot, serveFrom(sender), testFetch); err != nil {
				t.Fatal(err)
			}
			if err := s.Install(last.index, 7, last.meta, last.snapshot); err != nil {
				t.Fatalf("%s, whole %v: %v", file, whole, err)
			}
			if err := s.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.check(t, s)
		}
	}
}
