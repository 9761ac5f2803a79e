package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
)

// JSON output contains nothing that acts on a terminal, and loses nothing.
func TestJSON_OnTerminal(t *testing.T) {
	f := newFakeAPI(t)
	for _, name := range append(hostileNames, "tag\U000e0041", "<&>") {
		if !utf8.ValidString(name) {
			continue
		}
		f.set(name, []byte(name))
		f.set("large/"+name, make([]byte, textBytesMax+1))
		for _, args := range [][]string{{"get", name}, {"put", name, name}, {"ls", name}, {"get", "large/" + name}, {"watch", name, "--since", "0", "--limit", "1", "--values"}} {
			r := f.command(t, nil, append(args, "--json")...).want(t, exitDone)
			plainOutput(t, strings.Join(args, " "), r.stdout)
			var got api.Record
			must(t, json.Unmarshal([]byte(r.stdout), &got))
			if got.Key != args[1] {
				t.Errorf("%q: key %q", args, got.Key)
			}
		}
	}
}
