package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// procfileAddrs is where the Procfile's processes listen, those with readiness first.
var procfileAddrs = []string{
	"127.0.0.1:11000", "127.0.0.1:11001", "127.0.0.1:11002",
	"127.0.0.1:5551", "127.0.0.1:5552", "127.0.0.1:5553", "127.0.0.1:5546",
	"127.0.0.1:12000", "127.0.0.1:12001", "127.0.0.1:12002",
}

// runner is foreman with the Procfile.
type runner struct {
	t    *testing.T
	dir  string
	bin  string
	cmd  *exec.Cmd
	log  *os.File
	done chan error // gets what Wait said, then is closed

	ended bool // as seen by stop
}

// startRunner starts the Procfile and waits until every node is ready.
func startRunner(t *testing.T, foreman, dir string) *runner {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "foreman-*.log")
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{t: t, dir: dir, bin: filepath.Join(dir, "bin", "oncekv"), log: log, done: make(chan error, 1)}
	// foreman's own 5 s are for a machine that does nothing else.
	r.cmd = exec.Command(foreman, "start", "--timeout", fmt.Sprint(int(stopMax.Seconds())))
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = dir, log, log
	r.cmd.SysProcAttr = ownGroup()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.done <- r.cmd.Wait()
		close(r.done)
	}()
	t.Cleanup(func() {
		if !r.ended || r.processes() != nil {
			_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		}
		for range r.done {
		}
		if t.Failed() {
			t.Logf("foreman:\n%s", r.output())
		}
		_ = log.Close()
	})
	for _, addr := range procfileAddrs[:7] {
		clustertest.Eventually(t, addr+" is ready", func() error {
			resp, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + addr + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				text, _ := io.ReadAll(resp.Body)
				return fmt.Errorf("%s: %s", resp.Status, text)
			}
			return nil
		})
	}
	return r
}

func (r *runner) output() string {
	b, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// processes returns the IDs of the processes that run this directory's binary.
func (r *runner) processes() []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is valid
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && exe == r.bin {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// stop sends SIGTERM to the runner and expects everything to end in order, before foreman
// kills the rest.
func (r *runner) stop() {
	r.t.Helper()
	start := time.Now()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	select {
	case err := <-r.done:
		r.ended = true
		r.t.Logf("foreman ended after %.1f s: %v", time.Since(start).Seconds(), err)
	case <-time.After(2 * stopMax):
		r.t.Fatalf("foreman has not ended after %v; processes %v are left", 2*stopMax, r.processes())
	}
	if pids := r.processes(); pids != nil {
		r.t.Errorf("processes %v are left", pids)
	}
	if strings.Contains(r.output(), "SIGKILL") {
		r.t.Error("foreman had to kill")
	}
	for _, want := range []string{"n1", "n2", "n3", "c1", "c2", "c3", "admin"} {
		if !exitedWell(r.output(), want) {
			r.t.Errorf("%s did not exit with code 0", want)
		}
	}
	if addr := portInUse(procfileAddrs...); addr != "" {
		r.t.Errorf("somebody still listens on %s", addr)
	}
}

// exitedWell looks for foreman's line about a process: "12:00:00 n1.1 | exited with code 0".
func exitedWell(output, name string) bool {
	for line := range strings.Lines(output) {
		if strings.Contains(line, " "+name+".1 ") && strings.Contains(line, "exited with code 0") {
			return true
		}
	}
	return false
}

// shell runs one command line word for word and returns its output.
func shell(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), clustertest.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", line).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("%s: %v: %s", line, err, exit.Stderr)
	} else if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	t.Logf("$ %s\n%s", line, out)
	return string(out)
}

// The walkthrough, word for word, with the Procfile under a Procfile runner; then everything
// stops in order, and starts again with its data.
func TestProcfile_Walkthrough(t *testing.T) {
	full(t, "needs foreman, curl and the fixed ports of the Procfile")
	foreman, err := exec.LookPath("foreman")
	if err != nil {
		t.Fatalf("%v (Debian package ruby-foreman)", err)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal(err)
	}
	if addr := portInUse(procfileAddrs...); addr != "" {
		t.Skipf("the Procfile's ports are fixed, and %s is in use (by a local cluster?)", addr)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir()) // as /proc shows it
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{bin: "bin/oncekv", "../Procfile": "Procfile"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), b, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	r := startRunner(t, foreman, dir)
	if pids := r.processes(); len(pids) != 7 {
		t.Errorf("processes %v run; want seven", pids)
	}
	answer := shell(t, `curl -XPOST http://127.0.0.1:11000/key -d '{"key":"foo","value":"bar"}'`)
	for _, want := range []string{`"key":"foo"`, `"revision":1`, `"created":true`} {
		if !strings.Contains(answer, want) {
			t.Errorf("the put was answered %s; want %s", answer, want)
		}
	}
	readFoo(t)
	r.stop()

	r = startRunner(t, foreman, dir)
	readFoo(t)
	r.stop()
}

func readFoo(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		`curl -XGET http://127.0.0.1:5551/key/foo`,
		`curl -XGET http://127.0.0.1:5552/key/foo`,
		`curl -XGET http://127.0.0.1:5553/key/foo`,
	} {
		if got := shell(t, line); got != "bar" {
			t.Errorf("%s: %q, want bar", line, got)
		}
	}
}
