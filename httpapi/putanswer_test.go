package httpapi

import (
	"crypto/sha256"
	"fmt"
	"testing"

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
		want, err := marshal(a.document())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := a.appendJSON([]byte("x")); err != nil || string(got) != "x"+string(want) {
			t.Errorf("%q, %v; encoding/json says %q", got, err, want)
		}
	})
}
