package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// closedPipe returns the writing end of a pipe whose reader is gone.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// running starts a long-running command with both standard streams on pipes without readers.
func running(t *testing.T, args ...string) (*exec.Cmd, <-chan error) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = closedPipe(t), closedPipe(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, ended
}

func answers(url string) error {
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// A long-running command keeps serving when nobody reads its output, on either stream, and
// ends in order when it is told to.
func TestPipes_NodesServeOn(t *testing.T) {
	t.Parallel()
	db := clustertest.NewProcesses(t, bin, 1, 0)
	db.StartAll()
	own, peer, cache, admin := clustertest.FreeAddr(t), clustertest.FreeAddr(t), clustertest.FreeAddr(t), clustertest.FreeAddr(t)
	offset := 5000 + os.Getpid()%5000 // below the ports that the system chooses
	for _, tt := range []struct {
		name, url string
		args      []string
	}{
		{"serve", "http://" + own + "/readyz", []string{"serve", "--log-level", "debug", "--data-dir", t.TempDir(), "--listen", own, "--peer-listen", peer}},
		{"cache", "http://" + cache + "/readyz", []string{"cache", "--log-level", "debug", "--listen", cache, "--nodes", db.DBs[0].URL()}},
		{"admin", "http://" + admin + "/readyz", []string{"admin", "--log-level", "debug", "--listen", admin, "--nodes", db.DBs[0].URL()}},
		{"dev", fmt.Sprintf("http://127.0.0.1:%d/readyz", 5546+offset), []string{"dev", "--log-level", "debug", "--data-dir", t.TempDir(), "--port-offset", fmt.Sprint(offset)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd, ended := running(t, tt.args...)
			clustertest.Eventually(t, "it is ready", func() error {
				select {
				case err := <-ended:
					t.Fatalf("it has ended: %v", err)
				default:
				}
				return answers(tt.url)
			})
			for range 20 { // each of which is logged
				if err := answers(tt.url); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("it ends with %v", err)
				}
			case <-time.After(clustertest.Patience):
				t.Error("it does not end")
			}
		})
	}
}

// noReader is the exit code of a client command whose reader left before it had shown
// everything.
const noReader = 141

// Client commands end without a message when nobody reads their results. The exit code still
// reports a change that succeeded.
func TestPipes_ClientCommands(t *testing.T) {
	t.Parallel()
	db := clustertest.NewProcesses(t, bin, 1, 0)
	db.StartAll()
	cl := clustertest.Client(t, db.DBs[0].URL())
	(&writer{t: t, acked: map[string]string{}}).put(cl, "set", "before")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("of an import"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line, stdin string
		code        int
		says        string // on standard error; empty for nothing at all
	}{
		{line: "get set", code: noReader},
		{line: "get set --json", code: noReader},
		{line: "ls", code: noReader},
		{line: "ls --json", code: noReader},
		{line: "watch --since 0", code: noReader},
		{line: "watch", code: noReader}, // nothing to show: it looks whether somebody reads
		{line: "members", code: noReader},
		{line: "members --json", code: noReader},
		{line: "stats", code: noReader},
		{line: "version", code: noReader},
		{line: "completion bash", code: noReader},
		{line: "put new value"},
		{line: "put new2 value --json"},
		{line: "put set other", code: 4, says: "set"},
		{line: "put set other --json", code: 4, says: "set"},
		{line: "import --prefix imported/ " + dir},
		{line: "batch", stdin: `{"key":"line","value":"v"}` + "\n"},
		{line: "batch --json", stdin: `{"key":"line2","value":"v"}` + "\n", code: noReader},
		{line: "--help"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			cmd := exec.CommandContext(clustertest.WithTimeout(t), bin, strings.Fields(tt.line)...)
			cmd.Env = append(os.Environ(), "ONCEKV_ENDPOINTS="+db.DBs[0].URL())
			cmd.Stdin = strings.NewReader(tt.stdin)
			cmd.Stdout = closedPipe(t)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if said := stderr.String(); said != "" && tt.says == "" || !strings.Contains(said, tt.says) {
				t.Errorf("standard error: %q", said)
			}
		})
	}
	for _, key := range []string{"new", "new2", "imported/file", "line", "line2"} {
		if _, err := get(cl, key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// A watch ends when its reader does, even while there is nothing to show.
func TestPipes_WatchHead(t *testing.T) {
	t.Parallel()
	db := clustertest.NewProcesses(t, bin, 1, 0)
	db.StartAll()
	(&writer{t: t, acked: map[string]string{}}).put(clustertest.Client(t, db.DBs[0].URL()), "only", "value")
	cmd := exec.Command(bin, "watch", "--since", "0", "--endpoints", db.DBs[0].URL())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil && err != io.EOF || !strings.Contains(line, "only") {
		t.Fatalf("%q, %v", line, err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(clustertest.Patience):
		_ = cmd.Process.Kill()
		t.Fatal("it does not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != noReader || stderr.String() != "" {
		t.Errorf("exit code %d, standard error %q", code, stderr.String())
	}
}
