package raftnode

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// lostPages is a log of one segment in which a large save was under way when the
// power went: what the file held after the fsync before, and what the system would
// have written.
type lostPages struct {
	t            *testing.T
	dir, segment string
	before, all  []byte
	acknowledged uint64 // the last entry that was synced
	disk         *walDisk
}

const lostPageBytes = 4096

func newLostPages(t *testing.T) *lostPages {
	t.Helper()
	segment := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = 64 << 10
	t.Cleanup(func() { wal.SegmentSizeBytes = segment })
	p := &lostPages{t: t, dir: t.TempDir()}
	var err error
	if p.disk, err = createDisk(p.dir, 1, snapshotAt(1), fsync.Sync, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	p.segment = newestSegment(t, p.dir)
	p.save(2, 3, 700)
	p.acknowledged = 4
	p.before = p.read()
	// Commit indexes come without an fsync, and lie before the save.
	if err := p.disk.save(raftpb.HardState{Term: 1, Vote: 1, Commit: 3}, nil, false); err != nil {
		t.Fatal(err)
	}
	p.save(5, 16, 1300)
	p.all = p.read()
	return p
}

func newestSegment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(walDir(dir), "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %v, %v", names, err)
	}
	return names[0]
}

// save saves n entries from index first on, and a state.
func (p *lostPages) save(first uint64, n, size int) {
	p.t.Helper()
	var entries []raftpb.Entry
	for i := range n {
		entries = append(entries, raftpb.Entry{Index: first + uint64(i), Term: 1, Data: bytes.Repeat([]byte{byte(i + 1)}, size)})
	}
	if err := p.disk.save(raftpb.HardState{Term: 1, Vote: 1, Commit: first - 1}, entries, true); err != nil {
		p.t.Fatal(err)
	}
}

func (p *lostPages) read() []byte {
	p.t.Helper()
	b, err := os.ReadFile(p.segment)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// pages are those in which now and before differ.
func (p *lostPages) pages(now, before []byte) (differ []int) {
	for at := 0; at < len(now); at += lostPageBytes {
		if !bytes.Equal(now[at:at+lostPageBytes], before[at:at+lostPageBytes]) {
			differ = append(differ, at)
		}
	}
	return differ
}

// without is what the disk has of now when some pages are still as they were before.
func (p *lostPages) without(now, before []byte, lost ...int) []byte {
	b := bytes.Clone(now)
	for _, at := range lost {
		copy(b[at:at+lostPageBytes], before[at:])
	}
	return b
}

// check reads a log as a start does.
func (p *lostPages) check(b []byte) (walscan.Report, error) {
	p.t.Helper()
	dir := p.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(p.segment)), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return walscan.Check(dir)
}

// The pages of a save may reach the disk in any order. When the power goes before its
// fsync is done, any of them may be missing: that is no damage, and nothing that was
// acknowledged is lost with what is cut off.
func TestDisk_PagesOfOneSaveLostOutOfOrder(t *testing.T) {
	p := newLostPages(t)
	pages := p.pages(p.all, p.before)
	if len(pages) < 5 {
		t.Fatalf("the save has %d pages", len(pages))
	}
	for mask := 1; mask < 1<<len(pages); mask++ {
		var lost []int
		for i, at := range pages {
			if mask&(1<<i) != 0 {
				lost = append(lost, at)
			}
		}
		report, err := p.check(p.without(p.all, p.before, lost...))
		if err != nil {
			t.Fatalf("pages %v of %v lost: %v", lost, pages, err)
		}
		if report.LastIndex < p.acknowledged {
			t.Fatalf("pages %v of %v lost: the log ends at entry %d, and %d was acknowledged", lost, pages, report.LastIndex, p.acknowledged)
		}
	}
	// And the node goes on from there.
	if err := os.WriteFile(p.segment, p.without(p.all, p.before, pages[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.disk.close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.segment, p.without(p.all, p.before, pages[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	d, st, err := openDisk(p.dir, 1, fsync.Sync, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(st.entries); n < 3 || st.entries[n-1].Index < p.acknowledged {
		t.Errorf("%d entries", n)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// The same hole in what was synced is damage: as soon as anything was written after
// the fsync, be it in order or not, and when the node was stopped in order.
func TestDisk_PagesLostThatWereSynced(t *testing.T) {
	for name, after := range map[string]func(*lostPages) error{
		"another save": func(p *lostPages) error { p.save(21, 2, 100); return nil },
		"a snapshot":   func(p *lostPages) error { return p.disk.saveSnapshot(snapshotAt(4)) },
		"a vote":       func(p *lostPages) error { return p.disk.save(raftpb.HardState{Term: 2, Vote: 2, Commit: 4}, nil, true) },
		"a clean stop": func(p *lostPages) error { return p.disk.close() },
	} {
		t.Run(name, func(t *testing.T) {
			p := newLostPages(t)
			if err := after(p); err != nil {
				t.Fatal(err)
			}
			now := p.read()
			for _, at := range p.pages(p.all, p.before) {
				if at+lostPageBytes > bytes.LastIndexFunc(p.all, func(r rune) bool { return r != 0 }) {
					continue // it may hold the mark too
				}
				if report, err := p.check(p.without(now, p.before, at)); err == nil {
					t.Errorf("page %d of %s is gone, and nobody says so: %+v", at/lostPageBytes, fmt.Sprint(p.pages(p.all, p.before)), report)
				}
			}
		})
	}
}

// A log that an older program wrote says nothing about what was synced: there a hole
// is damage.
func TestDisk_PagesLostWithoutMarks(t *testing.T) {
	p := newLostPages(t)
	dir := t.TempDir()
	w, err := wal.Create(nil, walDir(dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	segment := newestSegment(t, dir)
	save := func(first uint64, n int) []byte {
		var entries []raftpb.Entry
		for i := range n {
			entries = append(entries, raftpb.Entry{Index: first + uint64(i), Term: 1, Data: bytes.Repeat([]byte{1}, 1300)})
		}
		if err := w.Save(raftpb.HardState{Term: 1, Vote: 1, Commit: first - 1}, entries); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := save(1, 2)
	all := save(3, 16)
	pages := p.pages(all, before)
	if _, err := p.check(p.without(all, before, pages[1])); err == nil {
		t.Error("it was accepted")
	}
}
