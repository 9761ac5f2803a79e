package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// Commands ask before they do what cannot be undone; without a terminal they need --yes.
func TestConfirm_WithoutTerminal(t *testing.T) {
	f := newFakeAPI(t)
	f.set("a", []byte("of others"))
	f.set("bench/x", []byte("of a bench"))
	dir := files(t, map[string]string{"index.html": "x"})
	for _, c := range []struct{ line, says string }{
		{"members remove n3", "permanently"},
		{"members remove n3 --force", "no majority"},
		{"serve --force-new-cluster --data-dir " + t.TempDir(), "cluster of its own"},
		{"dev --reset --data-dir " + t.TempDir(), "deletes all keys"},
		{"bench put --requests 1", "cannot be deleted"},
		{"bench get --requests 1 --keys 10", "such as a"},
		{"import " + dir + " --prefix app", "appindex.html"},
	} {
		f.locked(func() { f.changes = nil })
		r := f.command(t, strings.NewReader("n3\n"), strings.Fields(c.line)...)
		if r.code != exitUsage || !strings.Contains(r.stderr, "--yes") || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: exit code %d\n%s", c.line, r.code, r.stderr)
		}
		f.locked(func() {
			if len(f.values) != 2 || len(f.changes) > 0 {
				t.Errorf("%s: did something: %v", c.line, f.changes)
			}
		})
	}
	f.command(t, nil, "members", "remove", "n3", "--yes").want(t, exitDone)
	f.command(t, nil, "bench", "put", "--requests", "1", "--yes").want(t, exitDone).wantStderr(t, "cannot be deleted")
	f.command(t, nil, "import", dir, "--prefix", "app", "--yes").want(t, exitDone)
	f.command(t, nil, "import", dir, "--prefix", "app/").want(t, exitDone)
	if f.body("appindex.html") != "x" || f.body("app/index.html") != "x" {
		t.Error("not imported")
	}
}

// Ctrl-C ends a question, as it ends everything else.
func TestConfirm_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	silent, answer := io.Pipe()
	defer answer.Close()
	cancel()
	if err := ask(ctx, silent, io.Discard, "?", "n1"); !errors.Is(err, context.Canceled) {
		t.Errorf("ask = %v", err)
	}
}

// A benchmark asks only if there are other keys, wherever they sort.
func TestBench_KeysOfOthers(t *testing.T) {
	for _, c := range []struct {
		keys []string
		code int
	}{
		{nil, exitDone},
		{[]string{"bench/a", "bench/\xff\xff", "bench/" + strings.Repeat("\xff", 900)}, exitDone},
		{[]string{"bench"}, exitUsage},
		{[]string{"bench/a", "bench0"}, exitUsage},
		{[]string{"bench/a", "bench/b", "bench/c", "z"}, exitUsage},
		{[]string{"\x01", "bench/a"}, exitUsage},
	} {
		f := newFakeAPI(t)
		for _, key := range c.keys {
			f.set(key, []byte("x"))
		}
		f.command(t, nil, "bench", "put", "--requests", "1").want(t, c.code)
	}
}

// Every command that asks has a flag that answers.
func TestConfirm_YesFlags(t *testing.T) {
	for _, words := range [][]string{{"members", "remove"}, {"serve"}, {"bench"}, {"import"}, {"dev"}} {
		cmd, _, err := (&app{}).rootCommand().Find(words)
		must(t, err)
		if cmd.Flags().Lookup("yes") == nil {
			t.Errorf("%s has no --yes", strings.Join(words, " "))
		}
	}
}

func TestImport_Exclude(t *testing.T) {
	dir := files(t, map[string]string{
		"a.txt": "", "a.log": "", "sub/b.log": "", "sub/c.txt": "", ".git/config": "", "sub/.git/x": "", "build/out/x.o": "", "sub/build/x.o": "", "node_modules": "",
		"x/y/z/deep.bak": "", "[odd]": "", ".hidden": "",
	})
	all := []string{".git/config", ".hidden", "[odd]", "a.log", "a.txt", "build/out/x.o", "node_modules", "sub/.git/x", "sub/b.log", "sub/build/x.o", "sub/c.txt", "x/y/z/deep.bak"}
	for _, c := range []struct {
		patterns []string
		without  []string
	}{
		{[]string{"*.log"}, []string{"a.log", "sub/b.log"}},
		{[]string{"/*.log"}, []string{"a.log"}},
		{[]string{".git"}, []string{".git/config", "sub/.git/x"}},
		{[]string{".git/", "*.log"}, []string{".git/config", "sub/.git/x", "a.log", "sub/b.log"}},
		{[]string{"node_modules/"}, nil}, // it is a file here
		{[]string{"build"}, []string{"build/out/x.o", "sub/build/x.o"}},
		{[]string{"/build"}, []string{"build/out/x.o"}},
		{[]string{"sub/build"}, []string{"sub/build/x.o"}},
		{[]string{"build/*.o"}, nil}, // * is not /
		{[]string{"build/**/*.o"}, []string{"build/out/x.o"}},
		{[]string{"**/*.o"}, []string{"build/out/x.o", "sub/build/x.o"}},
		{[]string{"x/**"}, []string{"x/y/z/deep.bak"}},
		{[]string{"**/z"}, []string{"x/y/z/deep.bak"}},
		{[]string{`\[odd\]`}, []string{"[odd]"}},
		{[]string{".*"}, []string{".git/config", "sub/.git/x", ".hidden"}},
		{[]string{"[ab].txt", "?.log"}, []string{"a.txt", "a.log", "sub/b.log"}},
	} {
		f := newFakeAPI(t)
		line := []string{"import", dir}
		for _, p := range c.patterns {
			line = append(line, "--exclude", p)
		}
		f.command(t, nil, line...).want(t, exitDone)
		for _, key := range all {
			if _, set := f.value(key); set == slices.Contains(c.without, key) {
				t.Errorf("%q: %s is set: %t", c.patterns, key, set)
			}
		}
	}
	f := newFakeAPI(t)
	f.command(t, nil, "import", dir, "--exclude", "[").want(t, exitUsage)
	f.command(t, nil, "import", dir, "--exclude", "/").want(t, exitUsage)
}

// A dry run shows what an import would do with each file, and sets nothing.
func TestImport_DryRun(t *testing.T) {
	f := newFakeAPI(t)
	dir := files(t, map[string]string{"new\x1b": "n", "same": "s", "other": "o", "large": strings.Repeat("l", 3*spoolMemoryBytes)})
	f.set("p/same", []byte("s"))
	f.set("p/other", []byte("not o"))
	r := f.command(t, nil, "import", dir, "--prefix", "p/", "--dry-run").want(t, exitConflict)
	r.wantStdout(t, `created "p/new\x1b"`, "unchanged p/same", "created p/large", "conflict p/other", "Nothing was set").wantStderr(t, "conflict: other: ", "revision 2")
	plainOutput(t, "standard output", r.stdout)
	doc := f.importJSON(t, exitConflict, dir, "--prefix", "p/", "--dry-run")
	if !doc.DryRun || doc.counts() != "2 created, 1 unchanged, 1 conflict, 0 failed, 0 skipped" {
		t.Errorf("%+v", doc)
	}
	f.command(t, nil, "import", dir, "--prefix", "no-slash", "--dry-run").want(t, exitDone) // nothing to ask about
	if f.putCount() != 0 {
		t.Error("something was put")
	}
}
