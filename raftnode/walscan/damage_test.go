package walscan

import (
	"fmt"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// Guarantee 8: damage in flushed records is found, named, and never repaired.
// Every record is damaged in turn, the last included.
func TestCheck_DamagedRecord(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 40, 90, 700, 40, 3)
	tr := load(t, dir)
	for _, f := range tr.frames(t) {
		path, b := filepath.Join(dir, f.file), tr[f.file]
		damages := map[string]struct {
			off int
			to  []byte
		}{
			"zero header":     {f.off, make([]byte, headerBytes)},
			"longer":          {f.off, []byte{b[f.off] ^ 0x40}},
			"much longer":     {f.off + 4, []byte{1}},
			"other padding":   {f.off + 7, []byte{b[f.off+7] ^ 0x81}},
			"type":            {f.off + headerBytes + 1, []byte{b[f.off+headerBytes+1] ^ 1}},
			"checksum":        {f.off + headerBytes + 4, []byte{b[f.off+headerBytes+4] ^ 0x10}},
			"first data byte": {f.off + headerBytes + f.rec.dataOff, []byte{^b[f.off+headerBytes+f.rec.dataOff]}},
			"last byte":       {f.end - 1, []byte{^b[f.end-1]}},
		}
		for name, d := range damages {
			t.Run(fmt.Sprintf("%s %s", describe(f), name), func(t *testing.T) {
				patch(t, path, d.off, d.to, func() {
					_, err := Check(dir)
					wantDamage(t, err, f.file, max(0, f.off-8), f.end)
				})
			})
		}
	}
}

// The checksum covers neither type, nor lengths, nor padding; all of it must be
// noticed all the same, wherever it is.
func TestCheck_FlippedBit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 24, 60, 0, 300)
	tr := load(t, dir)
	for _, f := range tr.frames(t) {
		b := tr[f.file]
		for off := f.off; off < f.end; off++ {
			for bit := range 8 {
				framing := off < f.off+headerBytes+f.rec.dataOff || off >= f.end-8
				if !framing && bit != off%8 { // all bits where no checksum helps, else one a byte
					continue
				}
				patch(t, filepath.Join(dir, f.file), off, []byte{b[off] ^ 1<<bit}, func() {
					if r, err := Check(dir); err == nil {
						t.Fatalf("%s: flipped bit %d at %d was accepted: %+v", describe(f), bit, off, r)
					}
				})
			}
		}
	}
}

// A flipped bit in a last record that holds zeros looks torn, but is not.
func TestCheck_FlippedBitAmongZeros(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 3, 60)
	data := make([]byte, 2200)
	copy(data[700:], "a value in the middle of zeros")
	appendEntry(t, dir, raftpb.Entry{Index: 4, Term: 1, Data: data})
	tr := load(t, dir)
	all := tr.frames(t)
	last := all[len(all)-1]
	if allZero(last.rec.data) || last.rec.typ != entryType {
		t.Fatal("the last frame is not the entry")
	}
	for off := last.off; off < last.end; off++ {
		patch(t, filepath.Join(dir, last.file), off, []byte{tr[last.file][off] ^ 1<<(off%8)}, func() {
			_, err := Check(dir)
			wantDamage(t, err, last.file, last.off, last.end)
		})
	}
}

// A sector is written whole or not at all. Zeros in a part of one are damage,
// even where a header and what says how long the record is are gone.
func TestCheck_ZerosWithinSector(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 1, 100)
	appendEntry(t, dir, raftpb.Entry{Index: 2, Term: 1, Data: randomBytes(newRand(), 300)})
	frames := load(t, dir).frames(t)
	last := frames[len(frames)-1]
	sectorEnd := (last.off/sectorBytes + 1) * sectorBytes
	for n := headerBytes; last.off+n < min(last.end-8, sectorEnd); n++ {
		patch(t, filepath.Join(dir, last.file), last.off, make([]byte, n), func() {
			_, err := Check(dir)
			wantDamage(t, err, last.file, last.off, last.off)
		})
	}
}

// Pages of zeros within flushed records: etcd's Repair and ReadAll give up what
// follows. The pages are those of the file, at every frame that has a whole
// record behind the page.
func TestCheck_ZeroPage(t *testing.T) {
	t.Parallel()
	const page = 4096
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 70, 3000, 200, 9000, 50) // one or two entries fill a segment
	tr := load(t, dir)
	frames := tr.frames(t)
	checked := 0
	for name, b := range tr {
		for off := 0; off+page <= len(b); off += page {
			hit, intactBehind := false, name != lastFile(tr)
			for _, f := range frames {
				hit = hit || f.file == name && f.off < off+page && f.end > off
				intactBehind = intactBehind || f.file == name && f.off >= off+page
			}
			if !hit || !intactBehind {
				continue
			}
			checked++
			patch(t, filepath.Join(dir, name), off, make([]byte, page), func() {
				_, err := Check(dir)
				wantDamage(t, err, name, max(0, off-9100), off+page)
			})
		}
	}
	if checked < 20 {
		t.Fatalf("only %d pages were tried", checked)
	}
}

// The same within one segment, sector by sector, down to a single record left
// behind the hole.
func TestCheck_ZeroSectors(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 11, 180, 400)
	tr := load(t, dir)
	frames := tr.frames(t)
	last := frames[len(frames)-1]
	if len(tr) != 1 {
		t.Fatalf("%d segments, want one", len(tr))
	}
	for from := 0; from < last.off; from += sectorBytes {
		for to := from + sectorBytes; to <= last.off; to += sectorBytes {
			patch(t, filepath.Join(dir, last.file), from, make([]byte, to-from), func() {
				_, err := Check(dir)
				wantDamage(t, err, last.file, max(0, from-500), to)
			})
		}
	}
}

// A value may hold what looks like a log; the records around it still count.
func TestCheck_ValueHoldsALog(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "wal")
	writeWAL(t, dir, 3, 60)
	inner := load(t, dir)[segment{}.name()][:600]
	appendEntry(t, dir, raftpb.Entry{Index: 4, Term: 1, Data: inner})
	r, err := Check(dir)
	must(t, err)
	if r.LastIndex != 4 || r.Torn {
		t.Fatalf("report %+v", r)
	}
}
