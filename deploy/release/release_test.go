package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestArchive(t *testing.T) {
	a, b := file{"a", 0o755, []byte("1")}, file{"b/c", 0o644, []byte("2")}
	data, err := archive("dir", []file{b, a})
	must(t, err)
	again, err := archive("dir", []file{a, b})
	must(t, err)
	if !bytes.Equal(data, again) {
		t.Error("the order of the files matters")
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	must(t, err)
	var names []string
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Year() != 2000 {
			t.Errorf("%+v", h)
		}
	}
	if got := strings.Join(names, " "); got != "dir/a dir/b/c" {
		t.Errorf("it holds %s", got)
	}
}

// The same source in two directories, the second built with an empty build cache, gives the
// same bytes.
func TestRelease_Reproducible(t *testing.T) {
	if os.Getenv("ONCEKV_TEST_FULL") == "" {
		t.Skip("builds everything, the standard library included; set ONCEKV_TEST_FULL=1 to run it")
	}
	root, err := filepath.Abs("../..")
	must(t, err)
	p := platform{"linux", "amd64"}
	first, err := release(root, "v0.0.0-test", p)
	must(t, err)
	t.Setenv("GOCACHE", t.TempDir())
	second, err := release(copied(t, root), "v0.0.0-test", p)
	must(t, err)
	for i, f := range first {
		if s := second[i]; f.name != s.name || !bytes.Equal(f.data, s.data) {
			t.Errorf("%s of %d bytes and %s of %d bytes differ", f.name, len(f.data), s.name, len(s.data))
		}
	}
}

// copied copies the source to another directory.
func copied(t *testing.T, root string) string {
	t.Helper()
	list, err := output(root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	must(t, err)
	to := filepath.Join(t.TempDir(), "elsewhere")
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, name))
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(to, name), data, 0o600))
	}
	return to
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
