package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// goDownload fills an empty module cache with the real go command and returns the cache's
// download directory. Without modules it downloads the requirements of go.mod, with modules
// (path@version) exactly those.
func goDownload(t *testing.T, proxy string, modules ...string) (string, error) {
	t.Helper()
	cache, work := t.TempDir(), t.TempDir()
	if len(modules) == 0 { // outside of a module the command needs none
		for _, name := range []string{"go.mod", "go.sum"} {
			b, err := os.ReadFile(filepath.Join("..", name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(work, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"mod", "download"}, modules...)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "GOENV=off", "GOWORK=off", "GO111MODULE=on", "GOTOOLCHAIN=local",
		"GOFLAGS=-modcacherw", // a temporary directory that cannot be removed fails the test
		"GOPRIVATE=", "GONOPROXY=none", "GOSUMDB=off", "GOPROXY="+proxy, "GOMODCACHE="+cache)
	cmd.WaitDelay = 10 * time.Second // for what it has started and does not end
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go mod download from %s: %w\n%s", proxy, err, out)
	}
	return filepath.Join(cache, "cache", "download"), nil
}

func goOutput(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// ownModules fills a module cache with the modules of this project: from the machine's own
// cache, and from its proxy for missing ones. A build leaves out modules that only other
// systems need; if the proxy cannot be reached, it takes and returns only the modules of the
// build.
func ownModules(t *testing.T) (dir string, modules []string) {
	t.Helper()
	local := "file://" + filepath.ToSlash(filepath.Join(goOutput(t, "env", "GOMODCACHE"), "cache", "download"))
	dir, err := goDownload(t, local+","+goOutput(t, "env", "GOPROXY"))
	if err == nil {
		return dir, nil
	}
	const format = "{{with .Module}}{{if not .Main}}{{.Path}}@{{.Version}}{{end}}{{end}}"
	modules = strings.Fields(goOutput(t, "list", "-deps", "-f", format, "../cmd/oncekv"))
	slices.Sort(modules)
	modules = slices.Compact(modules)
	dir, errBuild := goDownload(t, local, modules...)
	if errBuild != nil {
		t.Fatal(errors.Join(err, errBuild))
	}
	t.Logf("only the %d modules of the build: %v", len(modules), err)
	return dir, modules
}

// fetched returns the files of a download directory that the go command fetches, or derives
// from fetched ones; not its lock files, nor the lists that it makes itself.
func fetched(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch filepath.Ext(path) {
		case ".info", ".mod", ".zip", ".ziphash":
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			files[rel] = b
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The project's own modules, stored as keys, are a module proxy: the go command fills an empty
// module cache from a cache node, byte for byte. Invariants 1, 3 and 5 on real files.
func TestGoProxy_OwnModules(t *testing.T) {
	source, modules := ownModules(t)
	p := clustertest.NewProcesses(t, bin, 3, 3)
	p.StartAll()
	dbs := clustertest.URLs(p.DBs...)

	first, code, err := runImport(source, "goproxy/", dbs)
	if err != nil || code != 0 || first.Created.Files < 50 || first.Unchanged.Files+first.Conflict.Files+first.Failed.Files+first.Skipped.Files != 0 {
		t.Fatalf("import: %+v, exit code %d, %v; want every file created", first, code, err)
	}
	t.Logf("imported %d files, %d bytes, in %.1f s", first.Created.Files, first.Created.Bytes, first.Seconds)

	again, code, err := runImport(source, "goproxy/", dbs)
	if err != nil || code != 0 || again.Unchanged != first.Created || again.Created.Files+again.Conflict.Files+again.Failed.Files+again.Skipped.Files != 0 {
		t.Errorf("second import: %+v, exit code %d, %v; want the same files, all unchanged", again, code, err)
	}
	out, err := exec.Command(bin, "import", source, "--prefix", "goproxy/", "--endpoints", strings.Join(dbs, ",")).Output()
	if err != nil || !bytes.Contains(out, []byte("Nothing changed")) {
		t.Errorf("an import of what is there said %q, %v; want it to say that nothing changed", out, err)
	}

	target, err := goDownload(t, p.Caches[0].URL()+"/key/goproxy", modules...)
	if err != nil {
		t.Fatal(err)
	}
	want, got := fetched(t, source), fetched(t, target)
	var size int
	for name, b := range want {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s: %d bytes of %d, or others, came from the cache node", name, len(got[name]), len(b))
		}
		size += len(b)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s came from the cache node and was never imported", name)
		}
	}
	t.Logf("%d files, %d bytes, are the same in both module caches", len(want), size)

	revision, digest := clustertest.SameHistory(t, p.DBs...)
	if revision != uint64(first.Created.Files) {
		t.Errorf("revision %d for %d files", revision, first.Created.Files)
	}
	t.Logf("revision %d, digest %s on all three", revision, digest)
}

// recipe returns the two blocks of commands of the Go module proxy in docs/quickstart.md: one
// fills it, one uses it.
func recipe(t *testing.T) (fill, use string) {
	t.Helper()
	found := blocks(t, "docs/quickstart.md", "## A Go module proxy", "")
	if len(found) != 2 || !strings.Contains(found[0], "oncekv import") || !strings.Contains(found[1], "GOPROXY=") {
		t.Fatalf("docs/quickstart.md has no such example: %q", found)
	}
	return found[0], found[1]
}

// inFreshHome runs commands in the project's module, like a user who has never run Go before,
// and returns their output.
func inFreshHome(t *testing.T, commands string, env ...string) (string, error) {
	t.Helper()
	home, module := t.TempDir(), t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(module, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-ec", commands)
	cmd.Dir = module
	cmd.Env = append([]string{
		"HOME=" + home, programPath(t), "TMPDIR=" + t.TempDir(),
		"GOFLAGS=-modcacherw", "GOTOOLCHAIN=local", // as in goDownload
	}, env...)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The example of docs/quickstart.md works, word for word except for the ports, on a machine
// that has never downloaded anything.
func TestGoProxy_Quickstart(t *testing.T) {
	fill, use := recipe(t)
	p := clustertest.NewProcesses(t, bin, 3, 1)
	p.StartAll()
	// Go's own proxy, and what this machine already has of it.
	proxy := "GOPROXY=file://" + filepath.ToSlash(filepath.Join(goOutput(t, "env", "GOMODCACHE"), "cache", "download")) + "," + goOutput(t, "env", "GOPROXY")
	if out, err := inFreshHome(t, "go mod download", proxy); err != nil {
		full(t, fmt.Sprintf("the module proxy cannot be reached: %v\n%s", err, out))
	}
	out, err := inFreshHome(t, fill, proxy, "ONCEKV_ENDPOINTS="+p.DBs[0].URL())
	if err != nil {
		t.Fatalf("%s: %v\n%s", fill, err, out)
	}
	use = strings.ReplaceAll(use, "http://127.0.0.1:5551", p.Caches[0].URL())
	if out, err := inFreshHome(t, use); err != nil {
		t.Errorf("%s: %v\n%s", use, err, out)
	}
}
