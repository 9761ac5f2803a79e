package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// TestUserMeta_Puts: metadata arrives by every way in which a key can be put.
func TestUserMeta_Puts(t *testing.T) {
	t.Parallel()
	want2 := map[string]string{"build": "17", "long-name": "a \"b\", c"}
	document := func(key, value string) string {
		return fmt.Sprintf(`{"key":%q,"value":%q,"meta":{"build":"17","long-name":"a \"b\", c"}}`, key, value)
	}
	headers := []string{"Oncekv-Meta-Build: 17", `oncekv-meta-LONG-name: a "b", c`}
	for name, put := range map[string]func(n *node){
		"PUT":           func(n *node) { want(t, n.put("/key/k", "v", headers...), 201) },
		"PUT by query":  func(n *node) { want(t, n.put("/key?key=k", "v", headers...), 201) },
		"PUT and keep":  func(n *node) { want(t, n.put("/keep/k", "v", headers...), 201) },
		"POST":          func(n *node) { want(t, n.post("/key", document("k", "v")), 201) },
		"a line":        func(n *node) { want(t, n.post("/keys", document("k", "v")), 200) },
		"a large value": func(n *node) { want(t, n.post("/keys", document("k", strings.Repeat("v", kvstore.ChunkBytes+1))), 200) },
		"a frame": func(n *node) {
			f := n.frames("/keys")
			f.put(frame.Put{ID: 1, Key: "k", Meta: want2, Value: []byte("v")})
			if _, set := f.next().(*frame.Set); !set {
				t.Error("the frame was not put")
			}
			f.end()
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			put(n)
			if got := n.db.lastRequest(t).UserMeta.Map(); !maps.Equal(got, want2) {
				t.Errorf("metadata %q", got)
			}
		})
	}
}

// TestUserMeta_Answers: every answer about a record has its metadata, and who put it,
// and none has any of a value without.
func TestUserMeta_Answers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	meta, err := kvstore.MakeUserMeta(map[string]string{"a": "1", "b-c": "two words", "e": ""})
	if err != nil {
		t.Fatal(err)
	}
	sum := kvstore.NewValue(n.db.set("plain", "", "v").Meta, nil).SHA256
	n.db.decide(kvstore.PutRequest{Key: "k", By: "ci", UserMeta: meta}, []byte("v"), sum)
	for _, got := range []reply{
		n.get("/key/k"), n.get("/key?key=k"), n.get("/keep/k"), n.send("HEAD", "/key/k", ""),
		n.get("/key/k", "Range: bytes=0-0"), n.get("/key/k", "If-None-Match: "+etagOf(sum)),
	} {
		for name, value := range map[string]string{"Oncekv-By": "ci", "Oncekv-Meta-A": "1", "Oncekv-Meta-B-C": "two words"} {
			wantHeader(t, got, name, value)
		}
		if _, there := got.header["Oncekv-Meta-E"]; !there {
			t.Errorf("%d: an empty value is left out", got.status)
		}
	}
	for _, got := range []reply{n.get("/key/plain"), n.get("/key/k", "If-Match: \"x\""), n.get("/key/k", "Range: bytes=9-")} {
		for name := range got.header {
			if strings.HasPrefix(name, api.HeaderMetaPrefix) || name == api.HeaderBy {
				t.Errorf("%d has %s", got.status, name)
			}
		}
	}

	const fields = `"by":"ci","meta":{"a":"1","b-c":"two words","e":""}`
	found := want(t, n.post("/keys/get", `{"key":"k"}`+"\n"+`{"key":"plain"}`), 200)
	for _, text := range []string{want(t, n.get("/key/k?format=json"), 200).body, strings.Split(found.body, "\n")[0]} {
		if !strings.Contains(text, fields) {
			t.Errorf("%s has no metadata", text)
		}
	}
	for _, text := range []string{want(t, n.get("/key/plain?format=json"), 200).body, strings.Split(found.body, "\n")[1]} {
		if strings.Contains(text, `"meta"`) || strings.Contains(text, `"by"`) {
			t.Errorf("%s has metadata", text)
		}
	}
	f := n.frames("/keys/get")
	f.get([]uint32{1, 2}, func(id uint32) string { return []string{1: "k", 2: "plain"}[id] }, false)
	f.end()
	for range 2 {
		v, ok := f.next().(*frame.Value)
		if !ok || v.ID == 1 && (v.By != "ci" || !maps.Equal(v.Meta, meta.Map())) || v.ID == 2 && (v.By != "" || v.Meta != nil) {
			t.Errorf("frame %+v", v)
		}
	}

	k := n.db.values["k"]
	for _, document := range []any{recordOf(&k.Meta), documentOfChange(&kvstore.Change{Meta: k.Meta}, false)} {
		text, err := json.Marshal(document)
		if err != nil || !strings.Contains(string(text), fields) {
			t.Errorf("%s has no metadata, %v", text, err)
		}
	}
}

// TestUserMeta_Refused: what cannot be kept as it was meant is refused, with a
// sentence, and nothing is set.
func TestUserMeta_Refused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	long := strings.Repeat("v", 2048)
	for name, tt := range map[string]struct{ header, member, says string }{
		"a name with a dot":      {"Oncekv-Meta-a.b: 1", `"a.b":"1"`, "lower-case letters"},
		"no name":                {"Oncekv-Meta-: 1", `"":"1"`, "0 characters"},
		"a long name":            {"Oncekv-Meta-" + long[:65] + ": 1", `"` + long[:65] + `":"1"`, "65 characters"},
		"not ASCII":              {"Oncekv-Meta-A: é", `"a":"é"`, "not printable ASCII"},
		"too much":               {"Oncekv-Meta-A: " + long, `"a":"` + long + `"`, "over 2048 bytes"},
		"a name in upper case":   {"", `"A":"1"`, "lower-case letters"},
		"a space at the end":     {"", `"a":"1 "`, "space"},
		"a number":               {"", `"a":1`, "does not take a number"},
		"a name twice":           {"Oncekv-Meta-A: 1\r\noncekv-meta-a: 2", `"a":"1","a":"2"`, "give it once"},
		"null instead of a text": {"", `"a":null`, "null"},
	} {
		if tt.header != "" {
			if p := want(t, n.put("/key/k", "v", tt.header), 400).problem(t); !strings.Contains(p.Detail, tt.says) {
				t.Errorf("%s: %q", name, p.Detail)
			}
		}
		document := `{"key":"k","value":"v","meta":{` + tt.member + `}}`
		if p := want(t, n.post("/key", document), 400).problem(t); !strings.Contains(p.Detail, tt.says) {
			t.Errorf("%s: %q", name, p.Detail)
		}
		line := want(t, n.post("/keys", document), 200).body
		if !strings.Contains(line, `"invalid"`) || !strings.Contains(line, tt.says) {
			t.Errorf("%s: line %s", name, line)
		}
	}
	f := n.frames("/keys")
	f.put(frame.Put{ID: 1, Key: "k", Meta: map[string]string{"A": "1"}, Value: []byte("v")})
	if p, ok := f.next().(*frame.Problem); !ok || p.Status != http.StatusBadRequest || !strings.Contains(p.Detail, "lower-case letters") {
		t.Errorf("frame %+v", p)
	}
	f.end()
	for path, body := range map[string]string{"/key": `{"key":"k","value":"v"}`, "/keys": `{"key":"k","value":"v"}`} {
		if p := want(t, n.post(path, body, "Oncekv-Meta-A: 1"), 400).problem(t); !strings.Contains(p.Detail, "Oncekv-Meta-A") {
			t.Errorf("%s: %q", path, p.Detail)
		}
	}
	n.db.nothingSet(t)
}

// TestUserMeta_Parsed: what reads lines for a node has their metadata too.
func TestUserMeta_Parsed(t *testing.T) {
	t.Parallel()
	item, err := ParsePut([]byte(`{"key":"k","value":"v","meta":{"a":"1"}}`))
	if err != nil || !maps.Equal(item.Meta, map[string]string{"a": "1"}) {
		t.Errorf("%+v, %v", item, err)
	}
}
