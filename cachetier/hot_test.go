package cachetier

import (
	"context"
	"fmt"
	"io"
	"testing"
	"unsafe"

	"github.com/Focinfi/oncekv/kvstore"
)

func hotValue(key string, size int) *kvstore.Value {
	body := make([]byte, size)
	copy(body, key)
	return kvstore.NewValue(kvstore.Meta{Key: kvstore.Key(key), Revision: 7, Size: int64(size), ContentType: "text/plain", PutID: "id"}, body)
}

// A value is held when it is found for the second time, as a copy, and is
// everything that it was but for the put id.
func TestHot_Hold(t *testing.T) {
	t.Parallel()
	h := NewHot(1 << 20)
	v := hotValue("key", 100)
	h.Hold(v)
	if _, found := h.Held("key"); found {
		t.Error("it is held after one read")
	}
	h.Hold(v)
	got, found := h.Held("key")
	if !found {
		t.Fatal("it is not held after two reads")
	}
	want := v.Meta
	want.PutID = ""
	body, _ := v.Bytes()
	held, whole := got.Bytes()
	if got.Meta != want || !whole || string(held) != string(body) {
		t.Errorf("held is %+v with %q", got.Meta, held)
	}
	if unsafe.SliceData(held) == unsafe.SliceData(body) {
		t.Error("held are the bytes that were found, which may be part of something larger")
	}
	bounded(t, h.memory, 1<<20)
}

// A pass over many keys holds none of them, and puts nothing out.
func TestHot_Pass(t *testing.T) {
	t.Parallel()
	h := NewHot(1 << 20)
	for range 2 {
		h.Hold(hotValue("hot", 100))
	}
	for i := range 20_000 {
		h.Hold(hotValue(fmt.Sprint("cold", i), 100))
	}
	if _, found := h.Held("hot"); !found || h.memory.Stats().Items != 1 {
		t.Errorf("%d are held, the hot one: %v", h.memory.Stats().Items, found)
	}
	bounded(t, h.memory, 1<<20)
}

// What is held keeps to the limit, and what does not fit is not held.
func TestHot_Bound(t *testing.T) {
	t.Parallel()
	h := NewHot(1 << 20)
	for i := range 2000 {
		v := hotValue(fmt.Sprint("key", i), 1000)
		h.Hold(v)
		h.Hold(v)
	}
	large := hotValue("large", 1<<19)
	h.Hold(large)
	h.Hold(large)
	if _, found := h.Held("large"); found || h.memory.Stats().Items < 500 {
		t.Errorf("%d are held, the large one: %v", h.memory.Stats().Items, found)
	}
	bounded(t, h.memory, 1<<20)
}

// A streamed value is not held: its reader belongs to the store.
func TestHot_Streamed(t *testing.T) {
	t.Parallel()
	h := NewHot(1 << 20)
	v := kvstore.NewStreamedValue(kvstore.Meta{Key: "key", Size: 10}, func(context.Context) io.ReadSeekCloser { return nil })
	h.Hold(v)
	h.Hold(v)
	if _, found := h.Held("key"); found {
		t.Error("it is held")
	}
}
