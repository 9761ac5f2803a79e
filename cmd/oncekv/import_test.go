package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// files makes a directory of files, by path and content.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, body := range content {
		full := filepath.Join(dir, path)
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		must(t, os.WriteFile(full, []byte(body), 0o644))
	}
	return dir
}

func (f *fakeAPI) importJSON(t *testing.T, code int, args ...string) importDocument {
	t.Helper()
	r := f.command(t, nil, append([]string{"import", "--json"}, args...)...).want(t, code)
	var doc importDocument
	must(t, json.Unmarshal([]byte(r.stdout), &doc))
	return doc
}

func (d importDocument) counts() string {
	return fmt.Sprintf("%d created, %d unchanged, %d conflict, %d failed, %d skipped", d.Created.Files, d.Unchanged.Files, d.Conflict.Files, d.Failed.Files, d.Skipped.Files)
}

func TestImport_KeysAndTypes(t *testing.T) {
	f := newFakeAPI(t)
	dir := files(t, map[string]string{
		"example.com/mod/@v/v1.0.0.zip":  "PK",
		"example.com/mod/@v/v1.0.0.mod":  "module example.com/mod",
		"example.com/mod/@v/v1.0.0.info": "{}",
		"example.com/mod/@v/list":        "v1.0.0\n",
		"!upper/a b+c%41.txt":            "spaces",
		"empty":                          "",
		"bytes \xff\xfe":                 "not UTF-8",
	})
	doc := f.importJSON(t, exitDone, dir, "--prefix", "goproxy/")
	if doc.counts() != "7 created, 0 unchanged, 0 conflict, 0 failed, 0 skipped" || doc.Created.Bytes != 48 {
		t.Fatalf("%s, %d bytes, %+v", doc.counts(), doc.Created.Bytes, doc.Problems)
	}
	for key, contentType := range map[string]string{
		"goproxy/example.com/mod/@v/v1.0.0.zip":  "application/zip",
		"goproxy/example.com/mod/@v/v1.0.0.mod":  "text/plain; charset=utf-8",
		"goproxy/example.com/mod/@v/v1.0.0.info": "application/json",
		"goproxy/example.com/mod/@v/list":        contentTypeDefault,
		"goproxy/!upper/a b+c%41.txt":            "text/plain; charset=utf-8",
		"goproxy/empty":                          contentTypeDefault,
		"goproxy/bytes \xff\xfe":                 contentTypeDefault,
	} {
		if v, ok := f.value(key); !ok || v.contentType != contentType {
			t.Errorf("key %q: set %t, type %q, want %q", key, ok, v.contentType, contentType)
		}
	}
}

func TestImport_Again(t *testing.T) {
	f := newFakeAPI(t)
	content := map[string]string{}
	for i := range 100 {
		content[fmt.Sprintf("d%d/f%d", i%7, i)] = fmt.Sprint("value ", i)
	}
	dir := files(t, content)
	f.command(t, nil, "import", dir).want(t, exitDone).wantStdout(t, "created", "100", "100 files of "+dir)
	f.command(t, nil, "import", dir).want(t, exitDone).wantStdout(t, "unchanged", "Nothing changed")
	must(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
	if doc := f.importJSON(t, exitDone, dir); doc.counts() != "1 created, 100 unchanged, 0 conflict, 0 failed, 0 skipped" {
		t.Fatal(doc.counts())
	}
	for path, body := range content {
		if got := f.body(path); got != body {
			t.Fatalf("key %s is %q, want %q", path, got, body)
		}
	}
}

func TestImport_Conflict(t *testing.T) {
	f := newFakeAPI(t)
	f.set("a", []byte("first"))
	dir := files(t, map[string]string{"a": "second", "b": "b", strings.Repeat("k", 200) + "/" + strings.Repeat("k", 200): "x"})
	r := f.command(t, nil, "import", dir).want(t, exitConflict).wantStderr(t, "conflict: a: ", "other bytes")
	r.wantStdout(t, "conflict", "3 files of "+dir)
	if f.body("a") != "first" || f.body("b") != "b" {
		t.Fatal("the import changed a key or missed one")
	}
	// A conflict has its own exit code even if there is a failure too.
	doc := f.importJSON(t, exitConflict, dir)
	if doc.Conflict.Files != 1 || doc.Problems[0].Path != "a" || doc.Problems[0].Status != "conflict" {
		t.Fatalf("%+v", doc)
	}
}

func TestImport_NothingSilent(t *testing.T) {
	f := newFakeAPI(t)
	long := strings.Repeat(strings.Repeat("k", 240)+"/", 5) + "file"
	dir := files(t, map[string]string{"good": "g", long: "x"})
	must(t, os.Symlink("good", filepath.Join(dir, "link")))
	must(t, os.Symlink(t.TempDir(), filepath.Join(dir, "linked-dir")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	doc := f.importJSON(t, exitFailed, dir)
	if doc.counts() != "1 created, 0 unchanged, 0 conflict, 1 failed, 3 skipped" {
		t.Fatalf("%s: %+v", doc.counts(), doc.Problems)
	}
	why := map[string]string{}
	for _, p := range doc.Problems {
		why[p.Path] = p.Status + ": " + p.Reason
	}
	if why["link"] != "skipped: a symbolic link" || why["linked-dir"] != "skipped: a symbolic link" || why["fifo"] != "skipped: a named pipe" || !strings.Contains(why[long], "a key has") {
		t.Fatalf("%v", why)
	}
}

func TestImport_BadDirectory(t *testing.T) {
	f := newFakeAPI(t)
	dir := files(t, map[string]string{"file": "x"})
	f.command(t, nil, "import", filepath.Join(dir, "absent")).want(t, exitFailed).wantStderr(t, "absent")
	f.command(t, nil, "import", filepath.Join(dir, "file")).want(t, exitFailed).wantStderr(t, "not a directory")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	if doc := f.importJSON(t, exitDone, link); doc.Created.Files != 1 {
		t.Fatalf("through a link to the directory: %s", doc.counts())
	}
}

// vanishing removes things while a file is sent.
type vanishing []string

func (v vanishing) Put(context.Context, string, io.ReadSeeker, client.PutOptions) (api.PutAnswer, error) {
	var errs []error
	for _, path := range v {
		errs = append(errs, os.RemoveAll(path))
	}
	return api.PutAnswer{Created: true}, errors.Join(errs...)
}

// Files and directories that the walk saw but cannot read are failures.
func TestImporter_Unreadable(t *testing.T) {
	dir := files(t, map[string]string{"a": "x", "b": "x", "c/d": "x"})
	im := &importer{client: vanishing{filepath.Join(dir, "b"), filepath.Join(dir, "c")}, root: dir, parallel: 1}
	err := im.sum.verdict(im.run(t.Context()))
	if exitCode(err) != exitFailed || im.sum.files[created] != 1 || im.sum.files[failed] != 2 {
		t.Fatalf("error %v, %v", err, im.sum.problems)
	}
	var paths []string
	for _, p := range im.sum.problems {
		paths = append(paths, p.Path)
	}
	slices.Sort(paths)
	if !slices.Equal(paths, []string{"b", "c"}) {
		t.Fatalf("failed: %v", paths)
	}
}

// Without a cluster an import of many files soon gives up and says so.
func TestImport_GivesUp(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.refuse = http.StatusServiceUnavailable })
	content := map[string]string{}
	for i := range 500 {
		content[fmt.Sprint("f", i)] = "x"
	}
	dir := files(t, content)
	r := f.command(t, nil, "import", dir, "--timeout", "20ms", "--parallel", "4").want(t, exitFailed)
	r.wantStderr(t, "not complete", "repeat the import")
	if f.putCount() > 100 {
		t.Fatalf("%d puts were tried", f.putCount())
	}
}

// stoppingPutter ends the import's context at the n-th put.
type stoppingPutter struct {
	stop func()
	left int
}

func (p *stoppingPutter) Put(ctx context.Context, key string, body io.ReadSeeker, opts client.PutOptions) (api.PutAnswer, error) {
	p.left--
	if p.left == 0 {
		p.stop()
	}
	return api.PutAnswer{Created: true}, nil
}

func TestImporter_Interrupted(t *testing.T) {
	content := map[string]string{}
	for i := range 50 {
		content[fmt.Sprint("f", i)] = "x"
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	im := &importer{client: &stoppingPutter{stop: cancel, left: 10}, root: files(t, content), parallel: 1}
	err := im.sum.verdict(im.run(ctx))
	if err == nil || exitCode(err) != exitFailed || im.sum.files[created] < 10 || im.sum.files[created] > 12 {
		t.Fatalf("error %v after %d files", err, im.sum.files[created])
	}
}

func TestContentTypeOf(t *testing.T) {
	for path, want := range map[string]string{
		"a.ZIP": "application/zip", "a.tar.gz": "application/gzip", "x/a.html": "text/html; charset=utf-8", "a.png": "image/png",
		"a": contentTypeDefault, ".bashrc-like": contentTypeDefault, "a.no-such": contentTypeDefault, "a.woff2": "font/woff2",
	} {
		if got := contentTypeOf(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// closedPipe is a standard output that loses its reader after some writes.
type closedPipe struct{ left int }

func (c *closedPipe) Write(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}

// A dry run whose reader goes away ends without a message; an import's puts stay.
func TestImport_ReaderGoes(t *testing.T) {
	f := newFakeAPI(t)
	tree := map[string]string{}
	for i := range 40 {
		tree[fmt.Sprintf("f%d", i)] = "x"
	}
	f.set("f3", []byte("other"))
	dir := files(t, tree)
	for _, c := range []struct {
		args  []string
		reads int
		code  int
	}{
		{[]string{"--dry-run"}, 1, exitNoReader},
		{[]string{"--dry-run", "--exclude", "f3"}, 39, exitNoReader}, // the counts are lost
		{[]string{"--dry-run", "--json"}, 0, exitNoReader},
		{[]string{"--exclude", "f3"}, 0, exitDone},
		{nil, 0, exitConflict},
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append([]string{"import", dir, "--endpoints", f.URL}, c.args...), nil, &closedPipe{c.reads}, &stderr, func(string) string { return "" })
		if code != c.code || c.code == exitNoReader && stderr.Len() > 0 || strings.Contains(stderr.String(), "reader of the output") {
			t.Errorf("%v: exit code %d, want %d\n%s", c.args, code, c.code, stderr.String())
		}
	}
}
