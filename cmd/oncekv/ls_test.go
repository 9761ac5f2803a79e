package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// fill sets keys in the given order.
func (f *fakeAPI) fill(keys ...string) {
	for _, key := range keys {
		f.set(key, []byte("value of "+key))
	}
}

func TestLs_Names(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("b", "a/2", "a/1", "a/with space", "a/\xff", "a/new\nline", "c")
	for args, want := range map[string]string{
		"ls":              "a/1\na/2\n\"a/new\\nline\"\na/with space\n\"a/\\xff\"\nb\nc\n",
		"ls a/":           "a/1\na/2\n\"a/new\\nline\"\na/with space\n\"a/\\xff\"\n",
		"ls --limit 3":    "a/1\na/2\n\"a/new\\nline\"\n",
		"ls no-such":      "",
		"ls b --local -l": "1  10  text/x-test  b\n",
	} {
		if r := f.command(t, nil, strings.Split(args, " ")...).want(t, exitDone); r.stdout != want {
			t.Errorf("%s: %q, want %q", args, r.stdout, want)
		}
	}
}

func TestLs_JSON(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("a", "b\xfe")
	lines := strings.Split(strings.TrimSpace(f.command(t, nil, "ls", "--json").want(t, exitDone).stdout), "\n")
	if len(lines) != 2 {
		t.Fatalf("%q", lines)
	}
	for i, want := range []string{"a", "b\xfe"} {
		var r api.Record
		must(t, json.Unmarshal([]byte(lines[i]), &r))
		if key, err := r.RawKey(); err != nil || key != want || r.Revision != uint64(i+1) || r.SHA256 == "" {
			t.Errorf("line %d: %+v, %v", i, r, err)
		}
	}
}

// A request that failed everywhere shows how the cluster looks.
func TestRun_SaysWhatIsWrong(t *testing.T) {
	f := newFakeAPI(t)
	members := api.Members{Stale: true, Members: []api.Member{
		{Name: "n1", Healthy: true, Role: api.RoleFollower}, {Name: "n2", ClientURL: "http://h:2"}, {Name: "n3", ClientURL: "http://h:3"},
	}}
	f.locked(func() { f.refuse, f.members = http.StatusServiceUnavailable, members })
	f.command(t, nil, "put", "k", "v", "--timeout", "20ms").want(t, exitFailed).wantStderr(t,
		f.URL+" refused: refused by the test", "there is no leader; 2 of 3 members unreachable: n2 (http://h:2), n3 (http://h:3).")
	f.Close()
	f.command(t, nil, "ls", "--timeout", "20ms").want(t, exitFailed).wantStderr(t, "unreachable", "No endpoint answers", "--endpoints")
}
