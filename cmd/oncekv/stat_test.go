package main

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// The metadata of a put appears wherever its record does.
func TestMeta_ThereAndBack(t *testing.T) {
	f := newFakeAPI(t)
	want := map[string]string{"source": "ci, run=7", "x-2": "~"}
	f.command(t, nil, "put", "k", "v", "--meta", "source=ci, run=7", "--meta", "x-2=~").want(t, exitDone)
	f.locked(func() {
		v := f.values["k"]
		v.by = "alice"
		f.values["k"] = v
	})
	r := f.command(t, nil, "stat", "k").want(t, exitDone)
	if want := `key           k
revision      1
size          1 bytes
sha256        4c94485e0c21ae6c41ce1dfe7b6bfaceea5ab68e40a2476f50208e526f506080
content type  text/plain; charset=utf-8
time          2023-11-14T22:13:20Z
put by        alice
meta source   ci, run=7
meta x-2      ~
`; r.stdout != want {
		t.Errorf("%s", r.stdout)
	}
	for _, line := range []string{"stat k", "get k", "get k -o /dev/null", "ls", "watch --since 0 --limit 1"} {
		var got api.Record
		must(t, json.Unmarshal([]byte(f.command(t, nil, append(strings.Fields(line), "--json")...).want(t, exitDone).stdout), &got))
		if got.Key != "k" || got.By != "alice" || !maps.Equal(got.Meta, want) {
			t.Errorf("%s: %+v", line, got)
		}
	}
}

func TestStat_Absent(t *testing.T) {
	f := newFakeAPI(t)
	f.set("key/a", nil)
	f.command(t, nil, "stat", "key").want(t, exitNotFound).wantStderr(t, `"key" is not set`, "One key begins with key")
	f.locked(func() { f.values["gone"] = fakeValue{revision: 2, gone: true} })
	for _, command := range []string{"get", "stat"} {
		r := f.command(t, nil, command, "gone").want(t, exitGone).wantStderr(t, "gone")
		if r.stdout != "" {
			t.Errorf("%s: standard output: %s", command, r.stdout)
		}
	}
}

// Each text that others chose takes one line.
func TestStat_OnTerminal(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", nil)
	f.locked(func() {
		v := f.values["k"]
		v.by, v.meta, v.contentType = "a\u202eb", map[string]string{"n": "\xff"}, "text/\u009b"
		f.values["k"] = v
	})
	plainOutput(t, "stat", f.command(t, nil, "stat", "k").want(t, exitDone).stdout)
}
