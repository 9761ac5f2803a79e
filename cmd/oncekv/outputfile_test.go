package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// wantFile checks a file's bytes and mode.
func wantFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	st, err := os.Stat(path)
	must(t, err)
	if string(got) != content || st.Mode().Perm() != mode {
		t.Errorf("%s: %q with mode %o, want %q with %o", filepath.Base(path), got, st.Mode().Perm(), content, mode)
	}
}

// leftover fails unless a directory has want names.
func leftover(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != want {
		t.Errorf("%d entries, want %d: %v", len(entries), want, entries)
	}
}

func TestGet_FileKeepsMode(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	for _, mode := range []os.FileMode{0o600, 0o640, 0o660, 0o755, 0o200} {
		path := filepath.Join(t.TempDir(), "out")
		must(t, os.WriteFile(path, []byte("something longer"), 0o600))
		must(t, os.Chmod(path, mode))
		f.command(t, nil, "get", "k", "-o", path).want(t, exitDone)
		must(t, os.Chmod(path, mode|0o400))
		wantFile(t, path, "value", mode|0o400)
		leftover(t, filepath.Dir(path), 1)
	}
}

func TestGet_FileLinks(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	t.Run("symbolic", func(t *testing.T) {
		dir, other := t.TempDir(), t.TempDir()
		must(t, os.WriteFile(at(other, "target"), []byte("old"), 0o640))
		must(t, os.Symlink(at(other, "target"), at(dir, "middle")))
		must(t, os.Symlink("middle", at(dir, "link")))
		f.command(t, nil, "get", "k", "-o", at(dir, "link")).want(t, exitDone)
		wantFile(t, at(other, "target"), "value", 0o640)
		if to, err := os.Readlink(at(dir, "link")); err != nil || to != "middle" {
			t.Errorf("the link leads to %q, %v", to, err)
		}
	})
	t.Run("dangling", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.Symlink("new", at(dir, "link")))
		f.command(t, nil, "get", "k", "-o", at(dir, "link")).want(t, exitDone)
		if got, err := os.ReadFile(at(dir, "new")); err != nil || string(got) != "value" {
			t.Errorf("%q, %v", got, err)
		}
		leftover(t, dir, 2)
	})
	t.Run("circle", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.Symlink("b", at(dir, "a")))
		must(t, os.Symlink("a", at(dir, "b")))
		f.command(t, nil, "get", "k", "-o", at(dir, "a")).want(t, exitFailed)
	})
	t.Run("hard", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(at(dir, "one"), []byte("something longer"), 0o644))
		must(t, os.Link(at(dir, "one"), at(dir, "two")))
		f.command(t, nil, "get", "k", "-o", at(dir, "one")).want(t, exitDone)
		wantFile(t, at(dir, "two"), "value", 0o644)
		leftover(t, dir, 2)
	})
}

func TestGet_FileSpecial(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	dir := t.TempDir()
	f.command(t, nil, "get", "k", "-o", dir).want(t, exitFailed).wantStderr(t, "directory")
	f.command(t, nil, "get", "k", "-o", filepath.Join(dir, "absent", "out")).want(t, exitFailed).wantStderr(t, "no such file or directory")
	f.command(t, nil, "get", "k", "-o", filepath.Join(dir, strings.Repeat("n", 255))).want(t, exitDone)
	if runtime.GOOS == "linux" {
		f.command(t, nil, "get", "k", "-o", "/dev/full").want(t, exitFailed).wantStderr(t, "no space")
	}
	pipe := filepath.Join(dir, "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	got := make(chan string, 1)
	go func() {
		b, err := os.ReadFile(pipe)
		got <- string(b) + errText(err)
	}()
	f.command(t, nil, "get", "k", "-o", pipe).want(t, exitDone)
	if s := <-got; s != "value" {
		t.Errorf("the pipe brought %q", s)
	}
	leftover(t, dir, 2)
}

func errText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// An open file is written at its offset, by whatever name it is given.
func TestGet_FileDescriptor(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	names := []string{"/dev/fd/3"}
	if runtime.GOOS == "linux" {
		names = append(names, "/proc/self/fd/3", "/proc/thread-self/fd/3")
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink("/dev/fd/3", link))
	for _, name := range append(names, link, "/dev/stdout") {
		path := filepath.Join(t.TempDir(), "out")
		must(t, os.WriteFile(path, []byte("head "), 0o600))
		out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		cmd := exec.Command(os.Args[0], "-test.run=^TestAsCommand$")
		cmd.Env = append(os.Environ(), asCommand+"="+strings.Join([]string{"get", "k", "-o", name, "--endpoints", f.URL}, " "))
		cmd.Stdout, cmd.ExtraFiles = out, []*os.File{out}
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		must(t, out.Close())
		wantFile(t, path, "head value", 0o600)
		leftover(t, filepath.Dir(path), 1)
	}
}

// asCommand is the environment variable whose words TestAsCommand runs as a command line.
const asCommand = "ONCEKV_TEST_COMMAND"

// TestAsCommand is the command when another test starts it as a process.
func TestAsCommand(t *testing.T) {
	if line := os.Getenv(asCommand); line != "" {
		os.Exit(run(t.Context(), strings.Fields(line), os.Stdin, os.Stdout, os.Stderr, func(string) string { return "" }))
	}
}

// A failed get leaves the old content, in place or not.
func TestWriteFile_FailureKeepsOld(t *testing.T) {
	for _, names := range [][]string{{"one"}, {"one", "two"}} {
		dir := t.TempDir()
		one := filepath.Join(dir, "one")
		must(t, os.WriteFile(one, []byte("old"), 0o600))
		for _, other := range names[1:] {
			must(t, os.Link(one, filepath.Join(dir, other)))
		}
		broken := io.MultiReader(strings.NewReader("new"), &failing{})
		if err := (&app{stderr: io.Discard}).writeFile(t.Context(), one, broken); err == nil {
			t.Error("no error")
		}
		wantFile(t, one, "old", 0o600)
		leftover(t, dir, len(names))
	}
	f := newFakeAPI(t)
	f.set("k", bytes.Repeat([]byte("v"), 3<<20))
	f.locked(func() { f.corrupt = true })
	path := filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(path, []byte("old"), 0o600))
	f.command(t, nil, "get", "k", "-o", path).want(t, exitFailed)
	wantFile(t, path, "old", 0o600)
}

type failing struct{}

func (*failing) Read([]byte) (int, error) { return 0, errors.New("broke off") }

// A file that we may not write to is not replaced either; root, who may, keeps its owner.
func TestGet_FileOfOthers(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	path := filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(path, []byte("old"), 0o400))
	if os.Getuid() != 0 {
		f.command(t, nil, "get", "k", "-o", path).want(t, exitFailed).wantStderr(t, "permission denied")
		wantFile(t, path, "old", 0o400)
		return
	}
	must(t, os.Chown(path, 1234, 2345))
	f.command(t, nil, "get", "k", "-o", path).want(t, exitDone)
	wantFile(t, path, "value", 0o400)
	st, err := os.Stat(path)
	must(t, err)
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 1234 || sys.Gid != 2345 {
		t.Errorf("the file belongs to %d:%d", sys.Uid, sys.Gid)
	}
}

// A new file's mode follows the umask.
func TestGet_NewFileMode(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	dir := t.TempDir()
	ordinary, err := os.Create(filepath.Join(dir, "ordinary"))
	must(t, err)
	must(t, ordinary.Close())
	st, err := os.Stat(ordinary.Name())
	must(t, err)
	f.command(t, nil, "get", "k", "-o", filepath.Join(dir, "out")).want(t, exitDone)
	wantFile(t, filepath.Join(dir, "out"), "value", st.Mode().Perm())
}

// The reader of an output named by -o may go away early, like that of standard output.
func TestGet_ReaderOfOutputGone(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	reader, writer, err := os.Pipe()
	must(t, err)
	defer writer.Close()
	must(t, reader.Close())
	r := f.command(t, nil, "get", "k", "-o", fmt.Sprintf("/dev/fd/%d", writer.Fd())).want(t, exitNoReader)
	if r.stderr != "" {
		t.Errorf("it says %q", r.stderr)
	}
}
