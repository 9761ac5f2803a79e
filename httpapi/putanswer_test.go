package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// FuzzPutAnswer: what is appended by hand is what encoding/json makes of it.
func FuzzPutAnswer(f *testing.F) {
	for c := range 256 {
		f.Add(fmt.Sprintf("a%cz", c), uint64(1), int64(0), true)
		f.Add(string([]byte{byte(c)}), ^uint64(0), int64(1<<40), false)
	}
	f.Add("\u2028\u2029\ufffd", uint64(1), int64(1), true)
	f.Fuzz(func(t *testing.T, key string, revision uint64, size int64, created bool) {
		if kvstore.Key(key).Validate() != nil {
			return // no answer is about such a key
		}
		a := &putAnswer{key: kvstore.Key(key), created: created,
			winner: &kvstore.Meta{Revision: kvstore.Revision(revision), Size: size, SHA256: sha256.Sum256([]byte(key))}}
		document := api.PutAnswer{Revision: revision, SHA256: a.winner.SHA256.String(), Size: size, Created: created}
		document.Key, document.KeyBase64 = api.JSONKey(key)
		want, err := marshal(&document)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.appendJSON([]byte("x")); string(got) != "x"+string(want) {
			t.Errorf("%q; encoding/json says %q", got, want)
		}
	})
}

// TestAppendPlainResult: what it writes is what encoding/json would.
func TestAppendPlainResult(t *testing.T) {
	t.Parallel()
	size := int64(0)
	for r, plain := range map[api.BatchResult]bool{
		{Key: "a<b>&c/ ~", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:       true,
		{Key: "a", Status: api.BatchUnchanged, Revision: 1 << 60, SHA256: "ab", Size: &size}:       true,
		{Key: "ключ", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:            true,
		{Key: `a"b`, Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:             true,
		{KeyBase64: "/w==", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:      false,
		{Key: "a", Status: api.BatchConflict, Revision: 1, SHA256: "ab", Size: &size, Detail: "x"}: false,
		{Key: "a", Status: api.BatchFailed, Detail: "x"}:                                           false,
	} {
		line, ok := appendPlainResult(nil, &r)
		if ok != plain {
			t.Errorf("%+v: plain %v, want %v", r, ok, plain)
		}
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(r); err != nil || ok && string(line) != want.String() {
			t.Errorf("%q, want %q %v", line, want.String(), err)
		}
	}
}
