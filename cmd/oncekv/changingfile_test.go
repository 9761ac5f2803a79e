package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// fileChanges are the ways to spoil a file while it is read.
var fileChanges = map[string]func(t *testing.T, path string){
	"truncated": func(t *testing.T, path string) { must(t, os.Truncate(path, 100)) },
	"emptied":   func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
	"grown":     func(t *testing.T, path string) { appendTo(t, path, "more") },
	"grown by one": func(t *testing.T, path string) {
		appendTo(t, path, "x")
	},
	"overwritten": func(t *testing.T, path string) { writeAt(t, path, "other bytes", 3) },
	"overwritten, and the time set back": func(t *testing.T, path string) {
		st, err := os.Stat(path)
		must(t, err)
		writeAt(t, path, "other bytes", 3)
		must(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
	},
	"touched": func(t *testing.T, path string) {
		must(t, os.Chtimes(path, time.Now(), time.Now().Add(time.Second)))
	},
	"replaced": func(t *testing.T, path string) {
		must(t, os.WriteFile(path+".new", bytes.Repeat([]byte("n"), 8<<20), 0o600))
		must(t, os.Rename(path+".new", path))
	},
	"removed": func(t *testing.T, path string) { must(t, os.Remove(path)) },
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString(text)
	must(t, err)
	must(t, f.Close())
}

func writeAt(t *testing.T, path, text string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(text), at)
	must(t, err)
	must(t, f.Close())
}

// largeFile makes a file that no buffer on the way can hold.
func largeFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "large")
	must(t, os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), 1<<19), 0o600))
	return path
}

// If a file changes while the node receives it, the key is not set, whatever the change and
// however the file was given.
func TestPut_FileChangesWhileSent(t *testing.T) {
	for name, change := range fileChanges {
		for _, way := range []string{"@FILE", "standard input", "import"} {
			t.Run(name+", "+way, func(t *testing.T) {
				f := newFakeAPI(t)
				path := largeFile(t)
				f.receive = func(body io.Reader) {
					io.CopyN(io.Discard, body, 1<<10)
					change(t, path)
				}
				var r result
				switch way {
				case "@FILE":
					r = f.command(t, nil, "put", "large", "@"+path)
				case "standard input":
					in, err := os.Open(path)
					must(t, err)
					defer in.Close()
					r = f.command(t, in, "put", "large")
				default:
					r = f.command(t, nil, "import", filepath.Dir(path))
				}
				if _, set := f.value("large"); set || r.code != exitFailed {
					t.Fatalf("exit code %d, set: %t\n%s%s", r.code, set, r.stdout, r.stderr)
				}
				r.wantStderr(t, "changed while it was read")
			})
		}
	}
}

// The same for each moment between the opening of a file and its last byte.
func TestSteadyFile_Changes(t *testing.T) {
	for name, change := range fileChanges {
		for _, size := range []int{1, 200, 100 << 10} {
			for moment, read := range map[string]int{"opened": 0, "half": size / 2, "all but one byte": size - 1} {
				path := filepath.Join(t.TempDir(), "f")
				must(t, os.WriteFile(path, bytes.Repeat([]byte("a"), size), 0o600))
				f, err := os.Open(path)
				must(t, err)
				defer f.Close()
				steady, err := newSteadyFile(t.Context(), f, path)
				must(t, err)
				n, err := io.ReadFull(steady, make([]byte, read))
				must(t, err)
				change(t, path)
				rest, err := io.ReadAll(steady)
				if err == nil || n+len(rest) >= size {
					t.Errorf("%s of %d bytes, %s at %s: %d bytes were handed out, %v", "file", size, name, moment, n+len(rest), err)
				}
				_, err = steady.Seek(0, io.SeekStart)
				must(t, err)
				if _, closeBody, err := steady.readThrough(); err == nil {
					closeBody()
					t.Errorf("file of %d bytes, %s at %s, read through", size, name, moment)
				}
			}
		}
	}
}

// A file that does not change can be sent repeatedly, from its current offset.
func TestSteadyFile_Again(t *testing.T) {
	path := largeFile(t)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	_, err = f.Seek(7, io.SeekStart)
	must(t, err)
	value, err := spool(t.Context(), f, path)
	must(t, err)
	if got := sizeOf(value.body); got != 8<<20-7 {
		t.Fatalf("size %d", got)
	}
	for range 3 {
		got, err := io.ReadAll(value.body)
		must(t, err)
		if len(got) != 8<<20-7 || got[0] != '7' {
			t.Fatalf("%d bytes that begin with %q", len(got), got[0])
		}
		_, err = value.body.Seek(7, io.SeekStart)
		must(t, err)
	}
	must(t, value.close())
}

// If a try may have set the key and the file changes before the next, the outcome is unknown.
func TestPut_FileChangesBetweenTries(t *testing.T) {
	f := newFakeAPI(t)
	path := largeFile(t)
	f.receive = func(body io.Reader) {
		io.Copy(io.Discard, body)
		appendTo(t, path, "more")
		panic(http.ErrAbortHandler)
	}
	f.command(t, nil, "put", "k", "@"+path, "--put-id", "mine").want(t, exitUnknown).wantStderr(t, "--put-id mine", "changed while it was read")
}

// Files that the kernel makes up claim to be empty, or a page long.
func TestPut_KernelFiles(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has /proc and /sys")
	}
	for _, path := range []string{"/proc/sys/kernel/ostype", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/kallsyms"} {
		want, err := os.ReadFile(path)
		if err != nil || len(want) == 0 {
			t.Logf("%s: %v", path, err)
			continue
		}
		f := newFakeAPI(t)
		f.command(t, nil, "put", "file", "@"+path).want(t, exitDone)
		in, err := os.Open(path)
		must(t, err)
		f.command(t, in, "put", "input", "-").want(t, exitDone)
		must(t, in.Close())
		for _, key := range []string{"file", "input"} {
			if got := f.body(key); got != string(want) {
				t.Errorf("%s as %s: %d bytes, want %d", path, key, len(got), len(want))
			}
		}
	}
	f := newFakeAPI(t)
	f.command(t, nil, "import", "/proc/sys/kernel/random", "--prefix", "r/") // files that only root reads may fail
	if got := f.body("r/poolsize"); strings.TrimSpace(got) == "" {
		t.Errorf("poolsize is set to %q", got)
	}
}

// put waits for the writer of a named pipe until the user gives up.
func TestPut_NamedPipe(t *testing.T) {
	f := newFakeAPI(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if code := run(ctx, []string{"put", "k", "@" + pipe, "--endpoints", f.URL}, nil, io.Discard, io.Discard, func(string) string { return "" }); code != exitFailed || f.putCount() != 0 {
		t.Fatalf("exit code %d after %d puts", code, f.putCount())
	}
	opened, err := os.OpenFile(pipe, os.O_RDWR, 0) // lets the waiting open end
	must(t, err)
	must(t, opened.Close())
	pipe += "2"
	must(t, syscall.Mkfifo(pipe, 0o600))
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(pipe, []byte("through it"), 0) }()
	f.command(t, nil, "put", "k", "@"+pipe).want(t, exitDone)
	must(t, <-done)
	if f.body("k") != "through it" {
		t.Fatalf("set to %q", f.body("k"))
	}
	f.command(t, nil, "put", "d", "@"+filepath.Dir(pipe)).want(t, exitFailed).wantStderr(t, "a directory")
}

// swapping replaces a file before the importer opens it.
type swapping struct {
	swap func()
	api.PutAnswer
}

func (s *swapping) Put(_ context.Context, _ string, body io.ReadSeeker, _ client.PutOptions) (api.PutAnswer, error) {
	s.swap()
	_, err := io.Copy(io.Discard, body)
	return api.PutAnswer{Created: true}, err
}

// What the walk saw as a file may be something else when it is opened.
func TestImporter_SwappedFiles(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	for name, swap := range map[string]func(path string) error{
		"a named pipe":    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := files(t, map[string]string{"a": "x", "b": "x"})
		im := &importer{root: dir, parallel: 1, client: &swapping{swap: func() {
			b := filepath.Join(dir, "b")
			if os.Remove(b) == nil {
				must(t, swap(b))
			}
		}}}
		err := im.sum.verdict(im.run(t.Context()))
		if exitCode(err) != exitFailed || im.sum.files[created] != 1 || im.sum.files[failed] != 1 || !strings.Contains(im.sum.problems[0].Reason, name) {
			t.Errorf("%s: %v, %+v", name, err, im.sum.problems)
		}
	}
}

// A directory that becomes a link must not lead the import out of its tree.
func TestImporter_SwappedDirectory(t *testing.T) {
	outside := files(t, map[string]string{"d": "secret"})
	dir := files(t, map[string]string{"a": "x", "c/d": "x"})
	im := &importer{root: dir, parallel: 1, client: &swapping{swap: func() {
		must(t, os.RemoveAll(filepath.Join(dir, "c")))
		must(t, os.Symlink(outside, filepath.Join(dir, "c")))
	}}}
	err := im.run(t.Context())
	if im.sum.files[created] != 1 {
		t.Fatalf("error %v, %d created", err, im.sum.files[created])
	}
}

// A put with an unknown outcome is not a failure, and has its own exit code.
func TestImport_OutcomeUnknown(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.refuse = http.StatusGatewayTimeout })
	dir := files(t, map[string]string{"a": "x"})
	doc := f.importJSON(t, exitUnknown, dir, "--timeout", "50ms")
	if doc.Unknown.Files != 1 || doc.Failed.Files != 0 || doc.Problems[0].Status != "unknown" {
		t.Fatalf("%+v", doc)
	}
	f.command(t, nil, "import", dir, "--timeout", "50ms").want(t, exitUnknown).wantStdout(t, "unknown  1").wantStderr(t, "unknown: a: ", "may or may not be put")
}

// The first signal ends an import with its summary. Files under way may be put or not.
func TestImport_InterruptedMidPut(t *testing.T) {
	f := newFakeAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	arrived := make(chan struct{})
	f.receive = func(io.Reader) {
		cancel()
		<-arrived
	}
	defer close(arrived)
	var stdout, stderr strings.Builder
	code := run(ctx, []string{"import", files(t, map[string]string{"a": "x"}), "--endpoints", f.URL}, nil, &stdout, &stderr, func(string) string { return "" })
	if code != exitUnknown || !strings.Contains(stdout.String(), "unknown  1") || !strings.Contains(stderr.String(), "interrupted") {
		t.Fatalf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
}

// Standard input whose offset is behind the end of its file is not an empty value.
func TestPut_BehindTheEnd(t *testing.T) {
	f := newFakeAPI(t)
	path := filepath.Join(t.TempDir(), "in")
	must(t, os.WriteFile(path, []byte("0123456789"), 0o600))
	in, err := os.Open(path)
	must(t, err)
	defer in.Close()
	_, err = in.Seek(8, io.SeekStart)
	must(t, err)
	must(t, os.Truncate(path, 4))
	f.command(t, in, "put", "k").want(t, exitFailed)
	if _, set := f.value("k"); set {
		t.Error("set")
	}
}

func TestTypedContentType(t *testing.T) {
	for value, want := range map[string]string{"": contentTypeText, "text\n": contentTypeText, "\xff": contentTypeDefault} {
		body := strings.NewReader(value)
		got, err := typedInput(body)
		if err != nil || got != want || body.Len() != len(value) {
			t.Errorf("%q: %s, %v, %d bytes left", value, got, err, body.Len())
		}
	}
}
