package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPeerReader_TakesWhatWasWrittenAndNothingElse(t *testing.T) {
	t.Parallel()
	type sent struct {
		kind Kind
		id   uint32
		body string
	}
	all := []sent{{PeerGet, 1, "k"}, {PeerPing, 0, ""}, {PeerRecord, 1<<32 - 1, strings.Repeat("r", ValueBytesMax)}, {PeerLeaving, 0, ""}}
	var stream []byte
	for _, f := range all {
		stream = AppendPeer(stream, f.kind, f.id, f.body)
	}
	r := NewPeerReader(bytes.NewReader(stream))
	for _, want := range all {
		got, err := r.Next()
		if err != nil || got.Kind != want.kind || got.ID != want.id || string(got.Body()) != want.body {
			t.Fatalf("%v %d, %d bytes, %v; want %v %d, %d bytes", got.Kind, got.ID, len(got.Body()), err, want.kind, want.id, len(want.body))
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
	for name, bad := range map[string][]byte{
		"half a head":       {0, 0, 0},
		"too long":          AppendPeer(nil, PeerRecord, 1, make([]byte, BytesMax-headBytes+1)),
		"4 GiB announced":   {0xff, 0xff, 0xff, 0xff, byte(PeerRecord), 0, 0, 0, 1},
		"a body broken off": AppendPeer(nil, PeerRecord, 1, make([]byte, 200))[:100],
	} {
		if f, err := NewPeerReader(bytes.NewReader(bad)).Next(); err == nil || err == io.EOF {
			t.Errorf("%s: %+v, %v; want an error", name, f, err)
		}
	}
}

// TestPeerFrames_Bytes: the nodes of another version read them.
func TestPeerFrames_Bytes(t *testing.T) {
	t.Parallel()
	got := AppendPeer(AppendPeer(nil, PeerGet, 0x01020304, "key"), PeerPong, 0, "")
	if want := []byte("\x00\x00\x00\x03\x01\x01\x02\x03\x04key\x00\x00\x00\x00\x14\x00\x00\x00\x00"); !bytes.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func FuzzPeerReader(f *testing.F) {
	f.Add(AppendPeer(nil, PeerGet, 1, "app/v1/main.js"))
	f.Add(AppendPeer(AppendPeer(nil, PeerPing, 0, ""), PeerBusy, 3, "no database node"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, byte(PeerRecord), 0, 0, 0, 1})
	f.Add(AppendPeer(nil, PeerAbsent, 7, "")[:headBytes-1])
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewPeerReader(bytes.NewReader(stream))
		var again []byte
		for {
			got, err := r.Next()
			if err == io.EOF && len(again) != len(stream) {
				t.Fatalf("%d of %d bytes were read and it passes for the end", len(again), len(stream))
			}
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrMalformed) {
					t.Fatal(err)
				}
				return
			}
			if again = AppendPeer(again, got.Kind, got.ID, got.Body()); !bytes.HasPrefix(stream, again) {
				t.Fatal("what was read is not what was sent")
			}
		}
	})
}
