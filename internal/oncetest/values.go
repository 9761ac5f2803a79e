package oncetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// emptyValue: an empty value is a value like any other.
func emptyValue(t *trial) {
	empty := t.create(Put{Key: t.prefix + "empty"}, "")
	t.unchanged(Put{Key: empty.Key}, "", empty)
	t.loses(Put{Key: empty.Key}, "more", empty)
	t.holds(empty, "")
	full := t.create(Put{Key: t.prefix + "full"}, "full")
	t.loses(Put{Key: full.Key}, "", full)
	t.holds(full, "full")
}

// valuesAreBytes: every value comes back byte for byte.
func valuesAreBytes(t *trial) {
	for i, value := range []string{
		everyByte(), "\x00", "\x00\x00\x00", "\xff", "\xff\xfe", "\xef\xbb\xbf", "\n", "\r\n", "a\r\nb", " ", "null", `{"a":1}`, `"`, "\x1f\x8b\x08\x00",
		"PK\x03\x04", "<html></html>", "0\r\n\r\n", strings.Repeat("\x00", 70_000), strings.Repeat("é", 40_000),
	} {
		won := t.create(Put{Key: fmt.Sprintf("%s%d", t.prefix, i)}, value)
		t.unchanged(Put{Key: won.Key}, value, won)
		t.loses(Put{Key: won.Key}, value+"\x00", won)
	}
}

// largeValues: a value that is sent in pieces is set as a whole, and read as one.
func largeValues(t *trial) {
	random := rand.NewChaCha8([32]byte{16})
	for _, size := range []int{16<<10 - 1, 16 << 10, 64<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 17} {
		b := make([]byte, size)
		random.Read(b)
		value := string(b)
		won := t.create(Put{Key: fmt.Sprintf("%s%d", t.prefix, size)}, value)
		t.unchanged(Put{Key: won.Key}, value, won)
		b[size-1]++
		t.loses(Put{Key: won.Key}, string(b), won)
		t.loses(Put{Key: won.Key}, value[:size-1], won)
		t.readsInPieces(won, value)
		t.holds(won, value)
	}
}

// readsInPieces stops a read in the middle, and reads the rest with another.
func (t *trial) readsInPieces(won Record, value string) {
	t.Helper()
	for _, from := range []int64{0, won.Size / 2} {
		_, body, err := t.store.Get(t.Context(), won.Key)
		if err != nil {
			t.Fatalf("get %.90q: %v", won.Key, err)
		}
		piece := make([]byte, won.Size/2)
		if _, err = io.CopyN(io.Discard, body, from); err == nil {
			_, err = io.ReadFull(body, piece)
		}
		body.Close()
		if err != nil || string(piece) != value[from:][:len(piece)] {
			t.Fatalf("the %d bytes of %.90q from %d on are others than were put: %v", len(piece), won.Key, from, err)
		}
	}
}

// metadataStays: content type and metadata are those of the winning put.
func metadataStays(t *trial) {
	full := map[string]string{"a": "", "the-name-0": "the value: ~!\"%", strings.Repeat("n", metaNameBytesMax): "v"}
	for i := range metaNamesMax - len(full) {
		full[fmt.Sprintf("n%d", i)] = "value"
	}
	for i, p := range []Put{
		{}, {ContentType: "text/plain; charset=utf-8"}, {ContentType: "Text/HTML"}, {ContentType: "a/" + strings.Repeat("b", contentTypeBytesMax-2)},
		{Meta: map[string]string{"n": "v"}}, {Meta: map[string]string{"n": strings.Repeat("v", metaBytesMax-1)}}, {Meta: full, ContentType: "image/png"},
	} {
		p.Key = fmt.Sprintf("%s%d", t.prefix, i)
		won := t.create(p, "value")
		t.unchanged(Put{Key: p.Key, ContentType: "image/gif", Meta: map[string]string{"other": "one"}}, "value", won)
		t.holds(won, "value")
	}
}

// invalidMetadata: metadata that would not come back unchanged is refused, and nothing is
// set.
func invalidMetadata(t *trial) {
	many := map[string]string{}
	for i := range metaNamesMax + 1 {
		many[fmt.Sprintf("n%d", i)] = ""
	}
	for i, p := range []Put{
		{ContentType: "no slash;;"}, {ContentType: "a/" + strings.Repeat("b", contentTypeBytesMax-1)}, {ContentType: "text/plain\n"},
		{PutID: "a b"}, {PutID: "é"}, {PutID: strings.Repeat("i", putIDBytesMax+1)},
		{Meta: map[string]string{"": "v"}}, {Meta: map[string]string{"Name": "v"}}, {Meta: map[string]string{"a_b": "v"}},
		{Meta: map[string]string{strings.Repeat("n", metaNameBytesMax+1): "v"}}, {Meta: map[string]string{"n": " v"}}, {Meta: map[string]string{"n": "é"}},
		{Meta: map[string]string{"n": "a\nb"}}, {Meta: map[string]string{"n": strings.Repeat("v", metaBytesMax)}}, {Meta: many},
	} {
		p.Key = fmt.Sprintf("%s%d", t.prefix, i)
		t.fails(p, "value", api.ErrInvalid)
	}
}
