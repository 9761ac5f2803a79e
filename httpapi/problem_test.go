package httpapi

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// FuzzProblem: what is written without encoding/json is what it would write.
func FuzzProblem(f *testing.F) {
	for c := range 256 {
		f.Add(fmt.Sprintf("a%cz", c))
		f.Add(string([]byte{byte(c)}))
	}
	f.Add("")
	f.Add(`key "a\x00" is not set`)
	f.Fuzz(func(t *testing.T, detail string) {
		p := newProblem(404, api.ProblemNotFound, "%s", detail)
		want, err := json.Marshal(&p.document)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.json(); string(got) != string(want) {
			t.Errorf("%q; encoding/json says %q", got, want)
		}
	})
}

// Whatever else a document has is not left out.
func TestProblem_NotPlain(t *testing.T) {
	t.Parallel()
	size := int64(0)
	for _, d := range []api.Problem{{Revision: 1}, {SHA256: "x"}, {Size: &size}, {LimitBytes: 1}, {}} {
		p := newProblem(409, api.ProblemConflict, "detail")
		d.Type, d.Title, d.Status = p.document.Type, p.document.Title, p.document.Status
		p.document = d
		want, err := json.Marshal(&d)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.json(); string(got) != string(want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
