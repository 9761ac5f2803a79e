package walscan

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// Whatever the bytes are: Check does not panic, and what it lets through, etcd
// opens without a panic and with the entries that were counted.
func FuzzCheck(f *testing.F) {
	base := filepath.Join(f.TempDir(), "wal")
	written := writeWAL(f, base, 30, 60, 500)
	tr := load(f, base)
	last := lastFile(tr)
	f.Add(uint32(0), []byte{1}, uint32(0))
	f.Add(uint32(700), make([]byte, 600), uint32(0))
	f.Add(uint32(len(tr[last])-900), []byte("torn"), uint32(800))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		dir := tr.store(t)
		path := filepath.Join(dir, last)
		b, err := os.ReadFile(path)
		must(t, err)
		copy(b[int(at)%len(b):], patch)
		must(t, os.WriteFile(path, b[:len(b)-int(cut)%len(b)], 0o600))
		r, err := Check(dir)
		if err != nil {
			if !errors.As(err, new(*DamageError)) {
				t.Fatalf("not a DamageError: %v", err)
			}
			return
		}
		must(t, Repair(r))
		got, err := readAll(t, dir)
		must(t, err)
		if uint64(len(got)) != r.LastIndex {
			t.Fatalf("etcd reads %d entries, the report says %d", len(got), r.LastIndex)
		}
		if len(got) > len(written) || len(got) > 0 && !reflect.DeepEqual(got, written[:len(got)]) {
			t.Fatal("etcd reads entries that were never written")
		}
	})
}

// Bytes behind the first frames of a segment, interpreted as a torn end.
func FuzzParsePrefix(f *testing.F) {
	f.Add([]byte{0x08, 2, 0x10, 5, 0x1a, 1, 'x'})
	f.Add([]byte{0x08, 0x82, 0, 0x10, 5, 0x1a, 1, 'x'}) // longer than needed
	f.Add([]byte{0x08, 4, 0x10, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, ok := parsePrefix(b)
		if !ok {
			return
		}
		if n > len(b) || r.dataOff+len(r.data) != n {
			t.Fatalf("%x: %d bytes taken, data at %d of %d bytes", b, n, r.dataOff, len(r.data))
		}
		if r.data != nil && string(appendPrefix(nil, r.typ, r.crc, len(r.data))) != string(b[:r.dataOff]) {
			t.Fatalf("%x: accepted, but it is not how a record is encoded", b)
		}
	})
}
