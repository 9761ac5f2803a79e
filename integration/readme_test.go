package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// section returns the text under a heading of a document, up to the next heading. document is
// relative to the root of the repository.
func section(t *testing.T, document, heading string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", document))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(b), "\n"+heading+"\n")
	if !found {
		t.Fatalf("%s has no heading %q", document, heading)
	}
	code := false
	var lines []string
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "```") {
			code = !code
		} else if !code && strings.HasPrefix(line, "#") {
			break
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// blocks returns the code blocks of a section in the given language, empty for commands.
func blocks(t *testing.T, document, heading, language string) []string {
	t.Helper()
	var found []string
	parts := strings.Split("\n"+section(t, document, heading), "\n```")
	for i := 1; i < len(parts); i += 2 {
		if code, ok := strings.CutPrefix(parts[i], language+"\n"); ok {
			found = append(found, code+"\n")
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no such block under %q", document, heading)
	}
	return found
}

// needs skips a test whose document uses a program that this machine lacks.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		full(t, err.Error())
	}
}

// programPath returns a PATH on which the program is called oncekv.
func programPath(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(bin, filepath.Join(dir, "oncekv")); err != nil {
		t.Fatal(err)
	}
	return "PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH")
}

// script prepares commands of a document, to run in dir as a script that stops at its first
// failure.
func script(t *testing.T, dir, commands string, nodes ...*clustertest.Process) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(clustertest.WithTimeout(t), "sh", "-ec", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), programPath(t), "ONCEKV_ENDPOINTS="+strings.Join(clustertest.URLs(nodes...), ","))
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// A new cluster answers the first puts and gets as README shows.
func TestREADME_FirstRequests(t *testing.T) {
	t.Parallel()
	needs(t, "curl")
	p := clustertest.NewProcesses(t, bin, 3, 3)
	p.StartAll()
	here := strings.NewReplacer("127.0.0.1:11000", p.DBs[0].Addr,
		"127.0.0.1:5551", p.Caches[0].Addr, "127.0.0.1:5552", p.Caches[1].Addr, "127.0.0.1:5553", p.Caches[2].Addr)
	var requests int
	for _, block := range blocks(t, "README.md", "## Try it", "") {
		for shown := range strings.SplitSeq("\n"+block, "\n$ ") {
			command, want, _ := strings.Cut(shown, "\n")
			if !strings.HasPrefix(command, "curl ") {
				continue
			}
			requests++
			got, err := script(t, t.TempDir(), here.Replace(command)+" -sS", p.DBs...).CombinedOutput()
			if err != nil || strings.TrimSpace(string(got)) != strings.TrimSpace(want) {
				t.Errorf("%s\nanswered %s, %v\nREADME has %s", command, got, err, want)
			}
		}
	}
	if requests != 4 {
		t.Errorf("README shows %d requests, want 4", requests)
	}
}

// Another module can build README's Go program, and it works.
func TestREADME_GoProgram(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 1, 0)
	p.StartAll()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	module := t.TempDir()
	mod := fmt.Sprintf("module example.com/app\n\ngo %s\n\nrequire github.com/Focinfi/oncekv v0.0.0\n\nreplace github.com/Focinfi/oncekv => %q\n",
		goOutput(t, "list", "-m", "-f", "{{.GoVersion}}"), root)
	if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(mod), 0o600); err != nil {
		t.Fatal(err)
	}
	program := strings.ReplaceAll(blocks(t, "README.md", "## From Go", "go")[0], "http://127.0.0.1:11000", p.DBs[0].URL())
	prints := func(program, want string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(module, "main.go"), []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := script(t, module, "go vet -mod=mod . && go run -mod=mod .", p.DBs...)
		cmd.Env = append(cmd.Env, "GOWORK=off", "GOFLAGS=", "GOTOOLCHAIN=local")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || string(out) != want {
			t.Errorf("it printed %q, %v; want %q\n%s", out, err, want, &stderr)
		}
	}
	prints(program, "threads = 8\n")
	prints(program, "threads = 8\n") // the same bytes again
	prints(strings.Replace(program, "threads = 8", "threads = 9", 1), "set to other bytes before, at revision 1\nthreads = 8\n")
}

// README's recipes work as written.
func TestREADME_Recipes(t *testing.T) {
	t.Parallel()
	p := clustertest.NewProcesses(t, bin, 3, 1)
	p.StartAll()
	t.Run("artifacts", func(t *testing.T) { keepsArtifacts(t, p) })
	t.Run("decision", func(t *testing.T) { decidesOnce(t, p) })
	t.Run("changes", func(t *testing.T) { followsChanges(t, p) })
}

func keepsArtifacts(t *testing.T, p *clustertest.Processes) {
	needs(t, "sha256sum")
	recipe := blocks(t, "README.md", "### Keep build artifacts by digest", "")
	if len(recipe) != 2 {
		t.Fatalf("the recipe has %d blocks, want 2", len(recipe))
	}
	builder, user := t.TempDir(), t.TempDir()
	archive := make([]byte, 3<<20)
	rand.Read(archive)
	if err := os.WriteFile(filepath.Join(builder, "app.tar.gz"), archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a build that is repeated does no harm
		if out, err := script(t, builder, recipe[0], p.DBs...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if out, err := script(t, user, recipe[1], p.Caches...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(user, "app.tar.gz")); err != nil || !bytes.Equal(got, archive) {
		t.Errorf("a user got %d bytes, %v; want the builder's %d", len(got), err, len(archive))
	}

	archive[0]++
	if err := os.WriteFile(filepath.Join(builder, "app.tar.gz"), archive, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := script(t, builder, recipe[0], p.DBs...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 {
		t.Errorf("another archive of the same version: %v, want exit code 4\n%s", err, out)
	}
}

func decidesOnce(t *testing.T, p *clustertest.Processes) {
	recipe := blocks(t, "README.md", "### Decide once", "")[0]
	machine := t.TempDir()
	const report = "#!/bin/sh\necho ran >>runs\n"
	if err := os.WriteFile(filepath.Join(machine, "report"), []byte(report), 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 6 {
		cmd := script(t, machine, recipe, p.DBs[i%len(p.DBs)])
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if runs, err := os.ReadFile(filepath.Join(machine, "runs")); err != nil || string(runs) != "ran\n" {
		t.Errorf("the report says %q, %v; want that it ran once", runs, err)
	}
	out, err := script(t, machine, `test "$(oncekv get job/report/2026-11-30)" = "$(uname -n)"`, p.Caches...).CombinedOutput()
	if err != nil {
		t.Errorf("the winner cannot be read: %v\n%s", err, out)
	}
}

func followsChanges(t *testing.T, p *clustertest.Processes) {
	needs(t, "jq")
	recipe := blocks(t, "README.md", "### Follow changes from where you stopped", "")[0]
	cl := clustertest.Client(t, clustertest.URLs(p.DBs...)...)
	ctx := clustertest.WithTimeout(t)
	dir := t.TempDir()
	var want []string
	for change, err := range cl.Changes(ctx, client.ChangesOptions{Prefix: "app/"}) { // of another recipe
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, change.Key)
	}
	put := func(key string) {
		t.Helper()
		if _, err := cl.PutBytes(ctx, key, []byte("x"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(key, "app/") {
			want = append(want, key)
		}
	}
	for i := range 3 { // it is stopped twice, and goes on at another node
		put(fmt.Sprintf("app/before-%d", i))
		put(fmt.Sprintf("other/%d", i))
		cmd := script(t, dir, recipe, p.DBs[i%len(p.DBs)])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if cmd.ProcessState == nil {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			}
		})
		put(fmt.Sprintf("app/meanwhile-%d", i))
		clustertest.Eventually(t, "all changes of app/", func() error { return sawKeys(filepath.Join(dir, "seen.jsonl"), want) })
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil { // Ctrl-C
			t.Fatal(err)
		}
		_ = cmd.Wait() // a shell that Ctrl-C ended
	}
}

// sawKeys compares the keys in a file of changes.
func sawKeys(path string, want []string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var got []string
	for line := range bytes.Lines(b) {
		var change struct{ Key string }
		if err := json.Unmarshal(line, &change); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		got = append(got, change.Key)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("saw %q, want %q", got, want)
	}
	return nil
}
