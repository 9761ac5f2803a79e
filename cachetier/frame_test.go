package cachetier

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestReadFrame_TakesWhatWasWrittenAndNothingElse(t *testing.T) {
	var stream []byte
	sent := []frame{
		{frameGet, 1, []byte("k")}, {framePing, 0, nil}, {frameGet, 1<<32 - 1, bytes.Repeat([]byte{0xff}, 1024)},
		{frameRecord, 7, bytes.Repeat([]byte{1}, frameRecordBytes)}, {frameAbsent, 8, nil}, {frameBusy, 9, []byte("no")}, {frameLarge, 10, nil}, {framePong, 0, nil}, {frameLeaving, 0, nil},
	}
	for _, f := range sent {
		stream = appendFrame(stream, f.kind, f.id, f.payload)
	}
	r := bufio.NewReader(bytes.NewReader(stream))
	for _, want := range sent {
		got, err := readFrame(r)
		if err != nil || got.kind != want.kind || got.id != want.id || !bytes.Equal(got.payload, want.payload) {
			t.Fatalf("read kind %d id %d, %d bytes, %v; want kind %d id %d, %d bytes", got.kind, got.id, len(got.payload), err, want.kind, want.id, len(want.payload))
		}
	}
	if _, err := readFrame(r); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	for name, bad := range map[string][]byte{
		"half a header":       {0, 0, 0},
		"an unknown kind":     appendFrame(nil, 99, 1, nil),
		"an empty key":        appendFrame(nil, frameGet, 1, nil),
		"a key too long":      appendFrame(nil, frameGet, 1, bytes.Repeat([]byte{'k'}, 1025)),
		"a pong with a text":  appendFrame(nil, framePong, 1, []byte("x")),
		"a record too long":   appendFrame(nil, frameRecord, 1, make([]byte, frameRecordBytes+1)),
		"a record too short":  appendFrame(nil, frameRecord, 1, make([]byte, 10)),
		"4 GiB announced":     {0xff, 0xff, 0xff, 0xff, frameRecord, 0, 0, 0, 1},
		"a record broken off": appendFrame(nil, frameRecord, 1, make([]byte, 200))[:100],
	} {
		if f, err := readFrame(bufio.NewReader(bytes.NewReader(bad))); err == nil || err == io.EOF {
			t.Errorf("%s: %+v, %v; want an error", name, f, err)
		}
	}
}

func TestFrameBuffered_NeverPromisesTooMuch(t *testing.T) {
	whole := appendFrame(nil, frameGet, 1, []byte(strings.Repeat("k", 100)))
	for cut := range len(whole) + 1 {
		r := bufio.NewReader(bytes.NewReader(whole[:cut]))
		r.Peek(cut)
		if got, want := frameBuffered(r), cut == len(whole); got != want {
			t.Errorf("%d of %d bytes: %v", cut, len(whole), got)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(appendFrame(nil, frameGet, 1, []byte("app/v1/main.js")))
	f.Add(appendFrame(appendFrame(nil, framePing, 0, nil), frameBusy, 3, []byte("no database node")))
	f.Add(appendFrame(nil, frameRecord, 1<<31, make([]byte, recordFixed+recordChecksum)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, frameRecord, 0, 0, 0, 1})
	f.Add(appendFrame(nil, frameAbsent, 7, nil)[:frameHeader-1])
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(stream), 64)
		var again []byte
		for {
			f, err := readFrame(r)
			if err == io.EOF && len(again) != len(stream) {
				t.Fatalf("%d of %d bytes were read and it passes for the end", len(again), len(stream))
			}
			if err != nil {
				return
			}
			least, most, known := payloadLimits(f.kind)
			if !known || len(f.payload) < least || len(f.payload) > most {
				t.Fatalf("kind %d with %d bytes was let through", f.kind, len(f.payload))
			}
			again = appendFrame(again, f.kind, f.id, f.payload)
			if !bytes.HasPrefix(stream, again) {
				t.Fatal("what was read is not what was sent")
			}
		}
	})
}
