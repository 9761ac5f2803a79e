package cachetier

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore"
)

func sampleRecord(body []byte, streamed bool) (kvstore.Meta, []byte) {
	meta := kvstore.Meta{
		Key: "k\xff/..", Revision: 1<<63 + 5, Size: int64(len(body)), SHA256: sha256.Sum256(body), ContentType: "text/x; charset=utf-8",
		Time: time.Date(1969, 5, 6, 7, 8, 9, 987654321, time.UTC),
	}
	if len(body) > 0 {
		userMeta, err := kvstore.MakeUserMeta(map[string]string{"color": `blue "<&>" \\`, "empty": "", "large": strings.Repeat("<", 2000)})
		if err != nil {
			panic(err)
		}
		meta.By, meta.UserMeta = strings.Repeat("b", byBytesMax), userMeta
	}
	raw := encodeHeader(meta, streamed)
	if !streamed {
		raw = append(raw, body...)
	}
	return meta, raw
}

func TestRecord_RoundTrips(t *testing.T) {
	t.Parallel()
	for _, body := range [][]byte{{}, []byte("v"), bytes.Repeat([]byte{7}, inlineBytesMax)} {
		for _, streamed := range []bool{false, true} {
			meta, raw := sampleRecord(body, streamed)
			rec, err := decodeRecord(meta.Key, raw)
			if err != nil {
				t.Fatal(err)
			}
			held, _ := rec.value.Bytes()
			if rec.value.Meta != meta || rec.streamed != streamed || !streamed && !bytes.Equal(held, body) {
				t.Errorf("decoded %+v, want %+v", rec.value.Meta, meta)
			}
			if err := rec.verify(); err != nil {
				t.Error(err)
			}
			if len(raw) > recordBytesMax {
				t.Errorf("a record has %d bytes, recordBytesMax is %d", len(raw), recordBytesMax)
			}
		}
	}
}

func TestRecord_EveryDamageIsSeen(t *testing.T) {
	t.Parallel()
	meta, raw := sampleRecord([]byte("some value"), false)
	for i := range raw {
		damaged := bytes.Clone(raw)
		damaged[i] ^= 0x10
		rec, err := decodeRecord(meta.Key, damaged)
		if err == nil {
			err = rec.verify()
		}
		if err == nil {
			t.Errorf("a flipped bit in byte %d passes", i)
		}
	}
	for n := range raw {
		if _, err := decodeRecord(meta.Key, raw[:n]); err == nil {
			t.Errorf("a record cut to %d bytes passes", n)
		}
	}
	if _, err := decodeRecord(meta.Key, append(bytes.Clone(raw), 0)); err == nil {
		t.Error("a record with a byte too many passes")
	}
	if _, err := decodeRecord("another key", raw); err == nil {
		t.Error("another key's record passes")
	}
	damaged := bytes.Clone(raw)
	damaged[len(raw)-1]++
	rec, err := decodeRecord(meta.Key, damaged)
	if err != nil || !errors.Is(rec.verify(), errDigest) {
		t.Errorf("wrong value: %v, %v", err, rec.verify())
	}
}
