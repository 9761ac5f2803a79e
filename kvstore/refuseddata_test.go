package kvstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// What decodes must keep the rules for requests too, wherever it comes from: a
// command, or a record of a pull. Checksums are right in all of these.
func TestBody_BrokenRulesAreRefused(t *testing.T) {
	t.Parallel()
	sound := Meta{Key: "k", Size: 5, ContentType: "text/other", PutID: "id", Time: time.Unix(1, 0)}
	encode := func(m Meta) []byte {
		header := appendHeader(nil, &m)
		return append(header, "value"...)
	}
	bodies := map[string][]byte{"": encode(sound)}
	for _, id := range []string{"", " ", "a b", "tab\t", "\x7f", "é", "~\x00", strings.Repeat("x", api.PutIDBytesMax+1), strings.Repeat("x", 127)} {
		m := sound
		m.PutID = id
		bodies[fmt.Sprintf("put id %q", id)] = encode(m)
	}
	for _, ct := range []string{"\n", "text/plain\r\nx: y", "a/\x00", "\x7f/b", strings.Repeat("a", 254) + "\x1f"} {
		m := sound
		m.ContentType = ct
		bodies[fmt.Sprintf("content type %.20q", ct)] = encode(m)
	}
	for _, key := range []string{"", "a\x00b", strings.Repeat("k", MaxKeyBytes+1)} {
		m := sound
		m.Key = Key(key)
		bodies[fmt.Sprintf("key %.10q", key)] = encode(m)
	}
	for _, by := range []string{"a\nb", "é", " a", "a ", strings.Repeat("a", byBytesMax+1)} {
		m := sound
		m.By = by
		bodies[fmt.Sprintf("by %.20q", by)] = encode(m)
	}
	for _, encoded := range []string{"\x01a", "\x01A\x00", "\x01b\x00\x01a\x00", strings.Repeat("x", 5<<10)} {
		m := sound
		m.UserMeta = UserMeta{encoded}
		bodies[fmt.Sprintf("metadata %.20q", encoded)] = encode(m)
	}
	withMeta := sound
	withMeta.UserMeta = mustMeta(map[string]string{"a": ""})
	bodies["metadata of nothing, spelled out"] = bytes.Replace(encode(withMeta), []byte("\x03\x01a\x00"), []byte{0}, 1)
	digits := strings.Repeat("0a", 16)
	plain := encode(sound)
	at := bytes.Index(plain, []byte("\x02id"))
	bodies["hex digits that are not packed"] = bytes.Replace(plain, []byte("\x02id"), append([]byte{32}, digits...), 1)
	bodies["packed, but not 16 bytes"] = append(append(bytes.Clone(plain[:at]), packedPutID|2), plain[at+1:]...)
	spelled := append([]byte{commonContentTypes + 9}, "text/other"...)
	for _, ct := range contentTypes {
		bodies["spelled out: "+ct] = bytes.Replace(plain, spelled, append([]byte{byte(commonContentTypes + len(ct) - 1)}, ct...), 1)
	}
	for what, b := range bodies {
		_, err := decodeCommand(append(appendCommandHead(nil, commandPut), b...))
		if (err == nil) != (what == "") || err != nil && !errors.Is(err, errMalformedCommand) {
			t.Errorf("%s: as a command: %v", what, err)
		}
		if _, err := decodeRecord(testRecord(bodyInline, b, 3), 3); (err == nil) != (what == "") {
			t.Errorf("%s: as a record: %v", what, err)
		}
	}
}

// Every part of a query counts: without it, or with nonsense, it is refused.
func TestQuery_EveryPartCounts(t *testing.T) {
	t.Parallel()
	for _, q := range []query{
		{kind: queryRecords, index: 1, after: 2, through: 3, chunk: 4},
		{kind: queryChunks, index: 1, upload: uploadID{5}, chunk: 4},
	} {
		parts, err := url.ParseQuery(q.String())
		if err != nil {
			t.Fatal(err)
		}
		for name := range parts {
			for _, bad := range []string{"", "x", "-1", "99999999999999999999", "00"} {
				if bad == "00" && name != "upload" && name != "kind" {
					continue // a number
				}
				broken, _ := url.ParseQuery(q.String())
				broken.Set(name, bad)
				if _, err := parseQuery(broken.Encode()); err == nil {
					t.Errorf("%s: accepted with %s=%q", q.String(), name, bad)
				}
			}
			broken, _ := url.ParseQuery(q.String())
			broken.Del(name)
			if _, err := parseQuery(broken.Encode()); err == nil {
				t.Errorf("%s: accepted without %s", q.String(), name)
			}
		}
		if _, err := parseQuery(q.String() + "&bad=%zz"); err == nil {
			t.Errorf("%s: accepted with something that is not encoded as it should be", q.String())
		}
	}
}

// A stream that breaks off says so, wherever that is; one that fails says why.
func TestFrame_BreaksOff(t *testing.T) {
	t.Parallel()
	item := appendItem(nil, itemRecord, []byte("prefix"), []byte("body"))
	cause := errors.New("some cause")
	for n := range item {
		if _, _, err := readItem(bufio.NewReader(bytes.NewReader(item[:n])), new(itemRoom)); err != io.ErrUnexpectedEOF {
			t.Errorf("%d of %d bytes came: %v", n, len(item), err)
		}
		if _, _, err := readItem(bufio.NewReader(io.MultiReader(bytes.NewReader(item[:n]), iotest.ErrReader(cause))), new(itemRoom)); !errors.Is(err, cause) {
			t.Errorf("%d of %d bytes came before it failed: %v", n, len(item), err)
		}
	}
}

// Where the damage is is said if it is known.
func TestCorruptError_SaysWhere(t *testing.T) {
	t.Parallel()
	for offset, want := range map[int64]string{-1: "a.db is damaged: bad", 0: "a.db is damaged at offset 0: bad", 7: "a.db is damaged at offset 7: bad"} {
		if got := (&CorruptError{File: "a.db", Offset: offset, Detail: "bad"}).Error(); !strings.HasPrefix(got, want) {
			t.Errorf("offset %d: %q", offset, got)
		}
	}
}

// Who goes through all chunks of a value ends when it should.
func TestSumChunks_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	e := engine.NewMemEngine()
	f := newFlipped("k", 1, false)
	var d body
	change(t, e, func(tx engine.Tx) error {
		for _, raw := range f.chunks {
			k, row := rowOf(t, raw)
			if err := tx.Put(engine.BucketChunks, k[:], row); err != nil {
				return err
			}
		}
		cmd, err := decodeCommand(f.seal)
		d = cmd.body
		return err
	})
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	supplyHistory(t, s.bodies, e)
	for left := range 3 {
		h := sha256.New()
		s.history = e
		err := s.references(&stopAfter{t.Context(), left}, &d, func(ref bodies.Ref) error {
			b, err := s.readBody(ref, nil)
			h.Write(b)
			return err
		})
		sum := Digest(h.Sum(nil))
		if left < 2 && !errors.Is(err, context.Canceled) || left == 2 && (err != nil || sum != sumOf(f.value)) {
			t.Errorf("after %d chunks: %s, %v", left, sum, err)
		}
	}
}

// A store that is closed is not damaged.
func TestCorruptFile_OfAClosedEngine(t *testing.T) {
	t.Parallel()
	e := engine.NewMemEngine()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := corruptFile(e, "something"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
