package keyruns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"
)

// testBlock makes one block.
func testBlock(keys ...string) []byte {
	var b blockBuilder
	for i, k := range keys {
		b.add([]byte(k), uint64(1+i*1000))
	}
	return b.finish(nil, blockPlace{3, 4})
}

// sealBlock corrects the checksum of a block.
func sealBlock(raw []byte) { binary.BigEndian.PutUint32(raw[1:], blockSum(raw, blockPlace{3, 4})) }

// A builder knows whether there is room for an entry: blocks have a fixed length and are full.
func TestBlockBuilder_FillsBlocks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 6))
	var keys []string
	for i := range 4000 {
		keys = append(keys, keyMakers[i%len(keyMakers)](r))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	var b blockBuilder
	full := 0
	for _, k := range keys {
		value := r.Uint64()>>r.IntN(64) | 1
		if !b.fits([]byte(k), value) {
			used := len(b.buf) + 2*len(b.restarts) + blockSuffixBytes
			shared, more := commonBytes(b.last, []byte(k)), 0
			if b.n%restartEntries == 0 {
				shared, more = 0, 2
			}
			more += len(binary.AppendUvarint(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(shared)), uint64(len(k)-shared)), value)) + len(k) - shared
			if used+more <= blockBytes {
				t.Fatalf("a block of %d bytes has no room for %d", used, more)
			}
			if raw := b.finish(nil, blockPlace{}); len(raw) != blockBytes {
				t.Fatalf("a block of %d bytes", len(raw))
			}
			full++
		}
		b.add([]byte(k), value)
	}
	if full < 20 {
		t.Errorf("%d blocks", full)
	}
}

func TestBlock_EveryBitCounts(t *testing.T) {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key/%04d", i*i))
	}
	raw := testBlock(keys...)
	if _, err := openBlock(raw, blockPlace{3, 4}); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * len(raw) {
		damaged := bytes.Clone(raw)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, err := openBlock(damaged, blockPlace{3, 4}); err == nil {
			t.Fatalf("bit %d of byte %d does not count", bit%8, bit/8)
		}
	}
	for n := range raw {
		if _, err := openBlock(raw[:n], blockPlace{3, 4}); err == nil {
			t.Fatalf("%d of %d bytes are accepted", n, len(raw))
		}
	}
	for _, at := range []blockPlace{{3, 5}, {2, 4}, {4, 3}} {
		if _, err := openBlock(raw, at); err == nil {
			t.Errorf("a block is accepted at %v", at)
		}
	}
}

// If a block does not decode, no key counts as absent: a right checksum says nothing about the
// bytes it was computed from.
func TestBlock_WhatDoesNotDecode(t *testing.T) {
	var b blockBuilder
	var keys []string
	for i := range 5*restartEntries - 3 {
		keys = append(keys, fmt.Sprintf("key/%03d", i))
		b.add([]byte(keys[i]), uint64(i+1)) // which is one byte
	}
	raw := b.finish(nil, blockPlace{3, 4})
	whole, err := openBlock(raw, blockPlace{3, 4})
	if err != nil {
		t.Fatal(err)
	}
	rest := whole.entries
	for at := range keys {
		broken := bytes.Clone(raw)
		broken[blockPrefixBytes+len(whole.entries)-len(rest)+2] = 0 // there is no such revision
		sealBlock(broken)
		if _, rest, err = nextBlockEntry(rest); err != nil {
			t.Fatal(err)
		}
		b, err := openBlock(broken, blockPlace{3, 4})
		if err != nil {
			t.Fatalf("entry %d: %v", at, err)
		}
		if _, _, err := b.find([]byte(keys[at])); err == nil {
			t.Errorf("entry %d is broken, and not found out by who looks for it", at)
		}
		for i, key := range keys {
			if value, exact, err := b.find([]byte(key)); err == nil && (!exact || value != uint64(i+1)) {
				t.Errorf("entry %d is broken: %q has %d, %v", at, key, value, exact)
			}
		}
		var r blockReader
		r.reset(b)
		n := 0
		for r.next() {
			if n == at || string(r.key) != keys[n] {
				t.Errorf("entry %d is broken: %q is read in place of entry %d", at, r.key, n)
			}
			n++
		}
		if n != at || r.err == nil {
			t.Errorf("entry %d is broken: %d are read, then %v", at, n, r.err)
		}
	}
	for at := range len(whole.restarts) / 2 {
		broken := bytes.Clone(raw)
		binary.BigEndian.PutUint16(broken[blockBytes-blockSuffixBytes-len(whole.restarts)+2*at:], uint16(len(whole.entries)+1))
		sealBlock(broken)
		b, err := openBlock(broken, blockPlace{3, 4})
		if err != nil {
			t.Fatalf("restart %d: %v", at, err)
		}
		for i, key := range keys {
			if value, _, err := b.find([]byte(key)); err == nil && (value != uint64(i+1) || i/restartEntries == at) {
				t.Errorf("restart %d is broken: %q has %d", at, key, value)
			}
		}
	}
}

// FuzzBlock: any block with a right checksum decodes or is refused, and bisection finds what a
// scan finds.
func FuzzBlock(f *testing.F) {
	f.Add(testBlock("a", "ab", "abc", "b", "ba", "c/1", "c/2"), []byte("ab"))
	f.Add(testBlock("x"), []byte("y"))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 1, 5, 'a', 0, 0, 0, 4, 0, 1}, []byte("a"))
	f.Fuzz(func(t *testing.T, raw, key []byte) {
		if len(raw) < blockPrefixBytes+blockSuffixBytes {
			return
		}
		raw = bytes.Clone(raw)
		raw[0] = blockFormat
		sealBlock(raw)
		b, err := openBlock(raw, blockPlace{3, 4})
		if err != nil {
			return
		}
		_, _, _ = b.find(key)
		_, _ = b.first()
		var keys []string
		var values []uint64
		var r blockReader
		r.reset(b)
		for r.next() {
			keys, values = append(keys, string(r.key)), append(values, r.value)
		}
		if r.err != nil || len(keys) == 0 || !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			return
		}
		var w blockBuilder
		for i, k := range keys {
			if !w.fits([]byte(k), values[i]) {
				return // more than one block holds
			}
			w.add([]byte(k), values[i])
		}
		if b, err = openBlock(w.finish(nil, blockPlace{1, 2}), blockPlace{1, 2}); err != nil {
			t.Fatal(err)
		}
		for i, k := range keys {
			if value, exact, err := b.find([]byte(k)); err != nil || value != values[i] || !exact {
				t.Fatalf("%q: %d, %v, %v; want %d", k, value, exact, err, values[i])
			}
		}
		want := uint64(0)
		i, found := slices.BinarySearch(keys, string(key))
		if found {
			want = values[i]
		} else if i > 0 {
			want = values[i-1]
		}
		if value, exact, err := b.find(key); err != nil || value != want || exact != found {
			t.Fatalf("%q: %d, %v, %v; want %d, %v", key, value, exact, err, want, found)
		}
	})
}

// FuzzList: a list that decodes has exactly one encoding.
func FuzzList(f *testing.F) {
	l := list{mark: testMark(7), next: 9, runs: []runInfo{{1, 2, 3, 4}, {8, 7, 6, 5}}}
	f.Add(l.encode())
	f.Add((&list{}).encode())
	f.Add([]byte(listMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 20 { // else few pass
			raw = bytes.Clone(raw)
			copy(raw, listMagic)
			binary.BigEndian.PutUint32(raw[16:], uint32(max(len(raw)-24, 0)))
			raw = appendSum(raw[:len(raw)-4])
		}
		l, at, err := decodeList(raw)
		if err != nil {
			if at < 0 || at > int64(len(raw)) {
				t.Fatalf("%v at %d of %d", err, at, len(raw))
			}
			return
		}
		if again := l.encode(); !bytes.Equal(again, raw) {
			t.Fatalf("%x decodes, but encodes as %x", raw, again)
		}
	})
}

// FuzzRun: any run with right checksums is read or refused, and never takes more memory than
// its own.
func FuzzRun(f *testing.F) {
	files := NewMemFiles()
	x := openIndex(f, testConfig(files))
	add(f, x, crashMap(1), 1)
	info := x.current.Load().runs[0].runInfo
	whole := bytes.Clone(files.names[runName(info.number)].data)
	f.Add(whole, []byte("0004/1"))
	for _, at := range []int{9, 2053, len(whole) - 40, len(whole) - 20} {
		broken := bytes.Clone(whole)
		broken[at]++
		f.Add(broken, []byte("0/"))
	}
	f.Fuzz(func(t *testing.T, raw, key []byte) {
		raw = bytes.Clone(raw)
		if len(raw) < runFooterBytes || len(raw) > 1<<20 {
			return
		}
		end := raw[len(raw)-runFooterBytes:]
		copy(end, runMagic)
		binary.BigEndian.PutUint64(end[16:], 1)
		blocks, fences := binary.BigEndian.Uint64(end[32:]), binary.BigEndian.Uint64(end[40:])
		for i := uint64(0); i < min(blocks, 1<<20)+min(fences, 1<<20) && (i+1)*blockBytes <= uint64(len(raw)-runFooterBytes); i++ {
			b := raw[i*blockBytes:][:blockBytes]
			binary.BigEndian.PutUint32(b[1:], blockSum(b, blockPlace{binary.BigEndian.Uint64(end[56:]), i}))
		}
		appendSum(raw[:len(raw)-4])
		info := runInfo{number: 1, keys: binary.BigEndian.Uint64(end[24:]), size: int64(len(raw)), sum: binary.BigEndian.Uint32(raw[len(raw)-4:])}
		files := NewMemFiles()
		files.names[runName(1)] = &memInode{data: raw}
		r, err := openRun(files, info)
		if err != nil {
			return
		}
		_, _ = r.find(key, make([]byte, blockBytes))
		_, _ = newRunReader(r, 2, nil).seek(key)
		if r.check(nil) != nil {
			return
		}
		rd := newRunReader(r, 3, nil)
		for {
			ok, err := rd.next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if got, err := r.find(rd.key(), make([]byte, blockBytes)); err != nil || got != rd.revision() {
				t.Fatalf("%q: %d, %v; want %d", rd.key(), got, err, rd.revision())
			}
		}
	})
}

// appendSum appends the checksum of b.
func appendSum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}
