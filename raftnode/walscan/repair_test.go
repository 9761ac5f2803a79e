package walscan

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// A write that stopped after any byte of the last record is cut off, and
// nothing else. Behind it are the zeros the segment was made of.
func TestRepair_CutAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, size := range []int{20, 137, 1500} {
		base := filepath.Join(t.TempDir(), "wal")
		ents := writeWAL(t, base, 9, 100)
		appendEntry(t, base, raftpb.Entry{Index: 10, Term: 1, Data: randomBytes(newRand(), size)})
		tr := load(t, base)
		frames := tr.frames(t)
		last := frames[len(frames)-1]
		dataEnd := last.off + headerBytes + last.rec.dataOff + len(last.rec.data)
		for cut := last.off; cut < dataEnd; cut++ {
			dir := tr.store(t)
			path := filepath.Join(dir, last.file)
			must(t, os.Truncate(path, int64(cut)))
			must(t, os.Truncate(path, int64(len(tr[last.file]))))
			torn, err := os.ReadFile(path)
			must(t, err)
			r, err := Check(dir)
			if err != nil {
				t.Fatalf("cut %d bytes into the last frame: %v", cut-last.off, err)
			}
			if r.Torn != (cut > last.off) || r.LastIndex != 9 {
				t.Fatalf("cut %d bytes into the last frame: %+v", cut-last.off, r)
			}
			if r.Torn && (r.TornFile != path || r.TornOffset != int64(last.off)) {
				t.Fatalf("torn at %d, reported %s at %d", last.off, r.TornFile, r.TornOffset)
			}
			must(t, Repair(r))
			wantRepaired(t, dir, r, torn)
			wantEntries(t, dir, ents)
		}
	}
}

// The same where the file ends with what was written, as after an earlier
// repair by etcd.
func TestRepair_CutFile(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "wal")
	ents := writeWAL(t, base, 9, 100)
	appendEntry(t, base, raftpb.Entry{Index: 10, Term: 1, Data: randomBytes(newRand(), 700)})
	tr := load(t, base)
	frames := tr.frames(t)
	last := frames[len(frames)-1]
	for cut := last.off; cut < last.end-7; cut++ {
		dir := tr.store(t)
		must(t, os.Truncate(filepath.Join(dir, last.file), int64(cut)))
		r, err := Check(dir)
		must(t, err)
		must(t, Repair(r))
		wantEntries(t, dir, ents)
	}
}

// Sectors that never reached the disk, in any combination, as long as nothing
// whole follows them.
func TestRepair_LostSectors(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "wal")
	ents := writeWAL(t, base, 2, 100)
	appendEntry(t, base, raftpb.Entry{Index: 3, Term: 1, Data: randomBytes(newRand(), 2600)})
	tr := load(t, base)
	frames := tr.frames(t)
	last := frames[len(frames)-1]
	first := last.off/sectorBytes*sectorBytes + sectorBytes
	n := (last.end - first) / sectorBytes
	for lost := 1; lost < 1<<n; lost++ {
		dir := tr.store(t)
		path := filepath.Join(dir, last.file)
		b, err := os.ReadFile(path)
		must(t, err)
		for i := range n {
			if lost>>i&1 == 1 {
				clear(b[first+i*sectorBytes : first+(i+1)*sectorBytes])
			}
		}
		must(t, os.WriteFile(path, b, 0o600))
		r, err := Check(dir)
		must(t, err)
		if !r.Torn || r.TornOffset != int64(last.off) {
			t.Fatalf("lost sectors %b: %+v", lost, r)
		}
		must(t, Repair(r))
		wantEntries(t, dir, ents)
	}
}

// A record may begin at the very start of a sector that was lost while its
// later sectors arrived.
func TestRepair_LostHeaderSector(t *testing.T) {
	t.Parallel()
	dir, end := walEndingWithSector(t)
	before, err := readAll(t, dir)
	must(t, err)
	appendEntry(t, dir, raftpb.Entry{Index: 3, Term: 1, Data: randomBytes(newRand(), 1300)})
	path := filepath.Join(dir, segment{}.name())
	b, err := os.ReadFile(path)
	must(t, err)
	clear(b[end : end+sectorBytes])
	must(t, os.WriteFile(path, b, 0o600))
	r, err := Check(dir)
	must(t, err)
	if !r.Torn || r.TornOffset != int64(end) {
		t.Fatalf("report %+v, want torn at %d", r, end)
	}
	must(t, Repair(r))
	wantEntries(t, dir, before)
}

// One sector of the last record never reached the disk, wherever the record begins in
// its first one: its header may be all that is missing, or a single byte of its data.
func TestRepair_OneSectorLost(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "wal")
	ents := writeWAL(t, base, 1, 100)
	tr := load(t, base)
	path := segment{}.name()
	for gap := 0; gap < sectorBytes; gap += 8 {
		for _, sparse := range []bool{false, true} {
			dir := tr.store(t)
			shift := raftpb.Entry{Index: 2, Term: 1, Data: randomBytes(newRand(), gap)}
			data := randomBytes(newRand(), 2*sectorBytes+40)
			if sparse {
				for i := range data {
					if i%sectorBytes != gap {
						data[i] = 0
					}
				}
			}
			appendEntry(t, dir, shift)
			appendEntry(t, dir, raftpb.Entry{Index: 3, Term: 1, Data: data})
			frames := load(t, dir).frames(t)
			last := frames[len(frames)-1]
			whole, err := os.ReadFile(filepath.Join(dir, path))
			must(t, err)
			for at := last.off; at < last.end; at = at/sectorBytes*sectorBytes + sectorBytes {
				b := bytes.Clone(whole)
				clear(b[at:min(at/sectorBytes*sectorBytes+sectorBytes, last.end)])
				if bytes.Equal(b, whole) {
					continue
				}
				must(t, os.WriteFile(filepath.Join(dir, path), b, 0o600))
				r, err := Check(dir)
				if err != nil || !r.Torn || r.TornOffset != int64(last.off) {
					t.Fatalf("the record at %d, sparse %t, without what it has from %d on in that sector: %+v, %v", last.off%sectorBytes, sparse, at-last.off, r, err)
				}
				if gap%128 == 0 { // Repair does the same wherever it is
					must(t, Repair(r))
					wantEntries(t, dir, append(ents[:len(ents):len(ents)], shift))
				}
			}
		}
	}
}

// walEndingWithSector makes a log of two entries whose last frame ends where a
// sector does.
func walEndingWithSector(t *testing.T) (dir string, end int) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, base, 1, 100)
	tr := load(t, base)
	for size := 8; size <= 8+sectorBytes; size += 8 {
		dir := tr.store(t)
		appendEntry(t, dir, raftpb.Entry{Index: 2, Term: 1, Data: randomBytes(newRand(), size)})
		frames := load(t, dir).frames(t)
		if end := frames[len(frames)-1].end; end%sectorBytes == 0 {
			return dir, end
		}
	}
	t.Fatal("no entry ends with a sector")
	return "", 0
}

// Half a header at the end of the file makes etcd fail even when it is zero.
func TestRepair_OddSize(t *testing.T) {
	t.Parallel()
	for odd := range 7 {
		dir := filepath.Join(t.TempDir(), "wal")
		ents := writeWAL(t, dir, 3, 100)
		frames := load(t, dir).frames(t)
		last := frames[len(frames)-1]
		path := filepath.Join(dir, last.file)
		must(t, os.Truncate(path, int64(last.end)))
		must(t, os.Truncate(path, int64(last.end+1+odd)))
		r, err := Check(dir)
		must(t, err)
		must(t, Repair(r))
		wantEntries(t, dir, ents)
	}
}

func TestRepair_NothingTorn(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 3, 100)
	before := load(t, dir)
	r, err := Check(dir)
	must(t, err)
	must(t, Repair(r))
	after := load(t, dir)
	if len(after) != len(before) || !bytes.Equal(after[lastFile(after)], before[lastFile(before)]) {
		t.Fatal("Repair changed a log that was not torn")
	}
}

func TestRepair_InUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 3, 100)
	path := filepath.Join(dir, segment{}.name())
	l, err := fileutil.TryLockFile(path, os.O_RDWR, 0)
	must(t, err)
	defer l.Close()
	if err := Repair(Report{Torn: true, TornFile: path, TornOffset: 64}); err == nil {
		t.Fatal("Repair changed a segment that is in use")
	}
}

func TestRepair_FileChanged(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 3, 100)
	path := filepath.Join(dir, segment{}.name())
	if err := Repair(Report{Torn: true, TornFile: path, TornOffset: 1 << 20}); err == nil {
		t.Fatal("Repair extended a segment")
	}
}

// wantRepaired fails unless the torn file was kept aside and nothing but zeros
// stands behind the last good record.
func wantRepaired(t *testing.T, dir string, r Report, torn []byte) {
	t.Helper()
	if !r.Torn {
		return
	}
	kept, err := os.ReadFile(r.TornFile + ".broken")
	must(t, err)
	if tail := bytes.TrimRight(torn[r.TornOffset:], "\x00"); !bytes.Equal(kept, tail) {
		t.Fatal("the .broken copy is not the torn end")
	}
	now, err := os.ReadFile(r.TornFile)
	must(t, err)
	if !bytes.Equal(now[:r.TornOffset], torn[:r.TornOffset]) || !allZero(now[r.TornOffset:]) || len(now) != len(torn) {
		t.Fatal("the repair changed more or less than the torn end")
	}
	if again, err := Check(dir); err != nil || again.Torn || again.LastIndex != r.LastIndex || again.Entries != r.Entries {
		t.Fatalf("after the repair: %+v, %v", again, err)
	}
}
