package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// hostileNames are names that may try to fool a terminal.
var hostileNames = []string{
	"a\x1b[2Jb", "a\rb", "a\nb", "a\x07", "tab\there", "del\x7f", "\u009b31m", "rtl\u202eexe.txt", "zero\u200bwidth", "not UTF-8 \xff\xfe", `"quoted"`,
}

// plainOutput fails if s contains anything that acts on a terminal.
func plainOutput(t *testing.T, what, s string) {
	t.Helper()
	if !utf8.ValidString(s) || strings.ContainsFunc(strings.NewReplacer("\n", "", "\t", "").Replace(s), unprintable) {
		t.Errorf("%s is raw: %q", what, s)
	}
}

// No name, and nothing that a node says, reaches people raw.
func TestNamesOnTerminal(t *testing.T) {
	for _, name := range hostileNames {
		f := newFakeAPI(t)
		dir := files(t, map[string]string{name: "x"})
		f.set("conflict/"+name, []byte("other"))
		evil := api.Members{Leader: name, Members: []api.Member{{Name: name, Role: name, ClientURL: f.URL, PeerURL: name, ID: name, Healthy: true}}}
		f.locked(func() { f.members, f.caches = evil, []api.CacheNode{{Name: name, URL: name}} })
		for _, args := range [][]string{
			{"put", "k/" + name, "v", "--content-type", "text/plain"},
			{"put", "conflict/" + name, "v"},
			{"get", "absent/" + name},
			{"put", "k2", "@" + filepath.Join(dir, name, "absent")},
			{"put", "k2", "v", "--content-type", name},
			{"import", dir, "--prefix", "conflict/"},
			{"import", dir, "--prefix", "new/"},
			{"import", filepath.Join(dir, name)},
			{"batch", filepath.Join(dir, name)},
			{"ls"}, {"ls", "-l"},
			{"watch", "--since", "0", "--limit", "1", "--values"},
			{"members"}, {"members", "leader"}, {"members", "remove", name, "--yes"}, {"stats"},
			{"bench", name}, {"members", name}, {name},
			{"__complete", "members", "remove", ""},
		} {
			r := f.command(t, nil, args...)
			plainOutput(t, strings.Join(args, " ")+": standard output", r.stdout)
			plainOutput(t, strings.Join(args, " ")+": standard error", r.stderr)
		}
		r := f.command(t, nil, "put", name, "v").want(t, exitDone)
		r.wantStdout(t, "created "+shown(name)+": ")
	}
}

// Nor may the sentences of a node fool a terminal.
func TestServerWordsOnTerminal(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.detail, f.refuse = "no \x1b[2J\u202e\xff way", 400 })
	for _, args := range [][]string{{"put", "k", "v"}, {"import", files(t, map[string]string{"a": "x"})}} {
		r := f.command(t, nil, args...).want(t, exitFailed)
		plainOutput(t, args[0]+": standard error", r.stderr)
		r.wantStderr(t, `no \x1b[2J\u202e`)
	}
}

// JSON keeps every byte of a name.
func TestImport_JSONNames(t *testing.T) {
	f := newFakeAPI(t)
	name := "not UTF-8 \xff\xfe"
	f.set(name, []byte("other"))
	doc := f.importJSON(t, exitConflict, files(t, map[string]string{name: "x"}))
	if doc.Problems[0].Path != "" || doc.Problems[0].PathBase64 != base64.StdEncoding.EncodeToString([]byte(name)) || strings.Contains(doc.Problems[0].Reason, "\ufffd") {
		t.Fatalf("%+v", doc.Problems)
	}
	r := f.command(t, nil, "put", name, "x", "--json").want(t, exitConflict)
	var got putResult
	must(t, json.Unmarshal([]byte(r.stdout), &got))
	if raw, err := base64.StdEncoding.DecodeString(got.KeyBase64); err != nil || string(raw) != name {
		t.Fatalf("%+v", got)
	}
}

func TestLegible(t *testing.T) {
	for text, want := range map[string]string{
		"two\nlines, ü 語": `two\nlines, ü 語`, "\x1b[0m": `\x1b[0m`, "a\xffb": `a\xffb`, "\u202e": `\u202e`, "\r\n": `\r\n`, `say "hi"`: `say "hi"`, "": "",
	} {
		if got := legible(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// However many lines a name has, a message has only its own.
func TestNamesMakeNoLines(t *testing.T) {
	f := newFakeAPI(t)
	dir, forged := t.TempDir(), "failed: /etc/passwd"
	name := "no\n" + forged
	f.set("k", []byte("v"))
	for _, args := range [][]string{
		{"put", "a", "@" + name}, {"import", name}, {"batch", name}, {"get", "k", "-o", name + "/y"}, {"get", "k", "-o", filepath.Join(dir, name, "x")},
		{"serve", "--data-dir", "/proc/" + name, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"},
		{"import", dir, "--exclude", name + "["}, {"--" + name}, {"put", "--" + name, "v"}, {name}, {"members", name}, {"bench", name},
		{"put", "a", "v", "--endpoints", "http://" + name}, {"stats", "--timeout", name}, {"members", "remove", name},
		{"import", dir, "--prefix", name},
	} {
		r := f.command(t, nil, args...)
		if strings.Contains(r.stderr, "\n"+forged) || r.code == exitDone {
			t.Errorf("%q: exit code %d\n%s", args, r.code, r.stderr)
		}
	}
	f.locked(func() { f.detail, f.refuse = name, 400 })
	for _, args := range [][]string{{"put", "b", "v"}, {"import", files(t, map[string]string{name: "x"})}} {
		if r := f.command(t, nil, args...).want(t, exitFailed); strings.Contains(r.stderr, "\n"+forged) {
			t.Errorf("%q: %s", args, r.stderr)
		}
	}
}

func TestLinesOf(t *testing.T) {
	for want, err := range map[string]error{
		`open a\nb`:                  errors.New("open a\nb"),
		"one\\n|two":                 errors.Join(errors.New("one\n"), errors.New("two")),
		`read x\n: one|two`:          fmt.Errorf("read %s: %w", "x\n", errors.Join(errors.New("one"), errors.New("two"))),
		"a|b":                        &usageError{severalLines("a\nb")},
		`put "k\n": outcome unknown`: &client.RequestError{Op: "put \"k\n\"", Kind: api.ErrOutcomeUnknown},
	} {
		if got := strings.Join(linesOf(err), "|"); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	r := runCommand(t, nil, nil, "pu").want(t, exitUsage)
	r.wantStderr(t, "\n\nDid you mean this?\n  put\n")
}
