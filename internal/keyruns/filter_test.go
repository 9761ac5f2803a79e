package keyruns

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// A filter never denies a key that is there, seldom claims one that is not, and costs few
// bits. So do the fences.
func TestMemory(t *testing.T) {
	const n = 1_000_000
	x := openIndex(t, testConfig(NewMemFiles()))
	keys := hexKeys(1, n)
	if err := x.Add(t.Context(), ofKeys(keys), n, testMark(1)); err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		for _, r := range x.current.Load().runs {
			if !r.filter.has(keyHash(keys[i][:])) {
				t.Fatalf("the filter does not have %s", keys[i])
			}
		}
	}
	for i := range n {
		key := hexKey(2, i)
		if rev, err := x.Find(key[:]); err != nil || rev != 0 {
			t.Fatalf("%s: %d, %v", key, rev, err)
		}
	}
	s := x.Stats()
	if wrong := 100 * float64(s.FalsePositives) / n; wrong > 0.5 {
		t.Errorf("the filter is wrong for %.2f%% of the keys", wrong)
	}
	if bits := 8 * float64(s.MemoryBytes) / n; bits > 13.3 || s.FilterBits > 12 {
		t.Errorf("%.2f bits a key in memory, %.2f of them are the filter", bits, s.FilterBits)
	}
	if bytes := float64(s.Bytes) / n; bytes > 36 {
		t.Errorf("%.1f bytes a key on the disk", bytes)
	}
}

// The longest keys, with the longest common prefix.
func TestMemory_LongKeys(t *testing.T) {
	x := openIndex(t, testConfig(NewMemFiles()))
	keys := map[string]uint64{}
	for i := range 20_000 {
		keys[strings.Repeat("x", MaxKeyBytes-10)+fmt.Sprintf("%010d", i*7919)] = 1
	}
	add(t, x, keys, 1)
	if bytes := float64(x.Stats().MemoryBytes) / float64(len(keys)); bytes > 10 {
		t.Errorf("%.1f bytes a key in memory", bytes)
	}
	checkHas(t, x, keys, "x", "xy", strings.Repeat("x", MaxKeyBytes))
}

// A failed read is an error of its caller and does not end the index.
func TestIndex_ReadErrors(t *testing.T) {
	files := NewMemFiles()
	x := openIndex(t, testConfig(files))
	want := map[string]uint64{}
	for batch := range uint64(3) {
		add(t, x, crashMap(batch+1), batch+1)
		for k, v := range crashMap(batch + 1) {
			want[k] = v
		}
	}
	files.OnCall(func(c Call) Fault {
		if c.Op == OpRead {
			return Fault{Err: syscall.EIO}
		}
		return Fault{}
	})
	for key := range want {
		if rev, err := x.Find([]byte(key)); !errors.Is(err, syscall.EIO) || rev != 0 {
			t.Fatalf("%d, %v", rev, err)
		}
	}
	if err := x.Ascend(nil, func([]byte, uint64) bool { return true }); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	if err := x.Verify(t.Context(), nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	if _, err := x.Merge(t.Context()); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	if err := x.Add(t.Context(), inOrder(map[string]uint64{"z": 1}), 1, testMark(9)); !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	files.OnCall(nil)
	checkHas(t, x, want, "z")
	if merged, err := x.Merge(t.Context()); err != nil || !merged {
		t.Errorf("%v", err)
	}
	checkHas(t, x, want, "z")
}

// A run whose filter lacks a key, or whose fences lead astray, is detected before a list names
// it.
func TestRunWriter_ChecksWhatItWrote(t *testing.T) {
	keys := hexKeys(1, 1000)
	for what, spoil := range map[string]func(w *runWriter){
		"": func(*runWriter) {},
		"the filter does not have every key of block 0": func(w *runWriter) {
			hash := keyHash(keys[3][:])
			w.filter.line(hash)[probes(hash)>>3&63] = 0
		},
		"the fences lead to block": func(w *runWriter) {
			w.fence.n = 0
			for i := range 5 {
				w.fence.add(keys[190*i][:], uint64(i+1))
			}
		},
	} {
		w, err := createRun(NewMemFiles(), 1, 1, uint64(len(keys)), func(int) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			if err := w.add(keys[i][:], 1); err != nil {
				t.Fatal(err)
			}
		}
		spoil(w)
		_, err = w.finish()
		if corrupt, ok := errors.AsType[*CorruptError](err); ok != (what != "") || ok && !strings.Contains(corrupt.Detail, what) {
			t.Errorf("%q: %v", what, err)
		}
	}
}
