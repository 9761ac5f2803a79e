package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// Binary builds cmd/oncekv into dir and returns its path. If the race detector is on, the
// program gets it too.
func Binary(dir string) (string, error) {
	if Race {
		return build(dir, "-race")
	}
	return build(dir)
}

// PlainBinary is Binary without the race detector, whose shadow memory would dominate a test
// of memory.
func PlainBinary(dir string) (string, error) { return build(dir) }

// ChangedBinary is PlainBinary of a changed source, given by an overlay from broken.Overlay.
func ChangedBinary(dir, overlay string) (string, error) { return build(dir, "-overlay", overlay) }

func build(dir string, flags ...string) (string, error) {
	path := filepath.Join(dir, "oncekv")
	args := append([]string{"build", "-o", path}, flags...)
	out, err := exec.Command("go", append(args, "github.com/Focinfi/oncekv/cmd/oncekv")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build oncekv: %w\n%s", err, out)
	}
	return path, nil
}

// Processes is a cluster of real processes.
type Processes struct {
	t      testing.TB
	bin    string
	Dir    string
	DBs    []*Process
	Caches []*Process
}

// Process is one node as a process. It can be stopped in any way, and started again with the
// same flags.
type Process struct {
	t    testing.TB
	Bin  string // the program; a change counts from the next start
	Name string
	Addr string // where clients connect
	Dir  string // data directory, empty for caches
	Peer string // peer address, empty for caches
	Args []string
	Env  []string

	// Under is a command that replaces itself by the program, such as nsenter with its flags;
	// empty for none.
	Under []string
	// Logs is a directory that keeps the output of every start; empty means a temporary one,
	// shown when the test fails.
	Logs string

	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error // of Wait, set before done is closed
}

// NewProcesses prepares a cluster of dbs database nodes and caches cache nodes; nothing runs
// yet. Every database node gets the extra flags.
func NewProcesses(t testing.TB, bin string, dbs, caches int, extra ...string) *Processes {
	t.Helper()
	p := &Processes{t: t, bin: bin, Dir: t.TempDir()}
	for i := range dbs {
		p.DBs = append(p.DBs, p.newDB(fmt.Sprintf("n%d", i+1)))
	}
	var initial []string
	for _, d := range p.DBs {
		initial = append(initial, d.Name+"=http://"+d.Peer)
	}
	for _, d := range p.DBs {
		if dbs > 1 {
			d.Args = append(d.Args, "--initial-cluster", strings.Join(initial, ","))
		}
		d.Args = append(d.Args, extra...)
	}
	for i := range caches {
		c := &Process{t: t, Bin: bin, Name: fmt.Sprintf("c%d", i+1), Addr: FreeAddr(t)}
		c.Args = []string{"cache", "--name", c.Name, "--listen", c.Addr, "--nodes", p.DBs[0].URL()}
		p.Caches = append(p.Caches, c)
	}
	return p
}

func (p *Processes) newDB(name string) *Process {
	d := &Process{t: p.t, Bin: p.bin, Name: name, Addr: FreeAddr(p.t), Peer: FreeAddr(p.t), Dir: filepath.Join(p.Dir, name)}
	d.Args = []string{"serve", "--name", name, "--listen", d.Addr, "--peer-listen", d.Peer, "--data-dir", d.Dir}
	return d
}

// NewAdmin prepares an admin of the cluster, which keeps its address across starts.
func (p *Processes) NewAdmin() *Process {
	addr := FreeAddr(p.t)
	return NewProcess(p.t, p.bin, "admin", addr, "admin", "--listen", addr, "--nodes", strings.Join(URLs(p.DBs...), ","))
}

// NewProcess prepares any other command of the program. addr is where it serves clients, if it
// does.
func NewProcess(t testing.TB, bin, name, addr string, args ...string) *Process {
	return &Process{t: t, Bin: bin, Name: name, Addr: addr, Args: args}
}

// Joiner prepares another database node that joins through a running one.
func (p *Processes) Joiner(name string, via *Process, extra ...string) *Process {
	d := p.newDB(name)
	d.Args = append(d.Args, "--join", via.URL())
	d.Args = append(d.Args, extra...)
	return d
}

// StartAll starts every node and waits until all are ready.
func (p *Processes) StartAll() {
	p.t.Helper()
	for _, n := range p.All() {
		n.Start()
	}
	p.WaitReady()
}

// All returns the database nodes and the cache nodes.
func (p *Processes) All() []*Process { return append(append([]*Process(nil), p.DBs...), p.Caches...) }

// WaitReady waits until every running node is ready.
func (p *Processes) WaitReady() {
	p.t.Helper()
	for _, n := range p.All() {
		if n.Running() {
			n.WaitReady()
		}
	}
}

// URLs returns the client URLs of nodes.
func URLs(nodes ...*Process) []string {
	var urls []string
	for _, n := range nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// Leader returns the running database node that the others call leader.
func (p *Processes) Leader() *Process {
	p.t.Helper()
	var leader *Process
	Eventually(p.t, "a leader", func() error {
		for _, d := range p.DBs {
			if !d.Running() {
				continue
			}
			s, err := d.Stats()
			if err == nil && s.Role == api.RoleLeader {
				leader = d
				return nil
			}
		}
		return errorf("no node leads")
	})
	return leader
}

// URL returns where clients reach the node.
func (n *Process) URL() string { return "http://" + n.Addr }

// Start runs the process; its output goes to a file that is shown when the test fails. The
// process is killed when the test ends.
func (n *Process) Start() {
	n.t.Helper()
	dir := n.Logs
	if dir == "" {
		dir = n.t.TempDir()
	}
	log, err := os.CreateTemp(dir, n.Name+"-*.log")
	if err != nil {
		n.t.Fatal(err)
	}
	line := append(append(append([]string(nil), n.Under...), n.Bin), n.Args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), n.Env...)
	cmd.SysProcAttr = diesWithTest()
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	n.cmd, n.log, n.done = cmd, log, done
	go func() {
		n.err = cmd.Wait()
		close(done)
	}()
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		if n.t.Failed() && n.Logs == "" {
			n.t.Logf("log of %s (pid %d):\n%s", n.Name, cmd.Process.Pid, tail(log.Name(), 8<<10))
		}
		_ = log.Close()
	})
}

func tail(path string, bytes int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > bytes {
		b = b[len(b)-bytes:]
	}
	return string(b)
}

// Log returns the process's output so far.
func (n *Process) Log() string { return tail(n.log.Name(), 1<<20) }

// Running reports whether the process was started and has not ended.
func (n *Process) Running() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// PID returns the process id of the latest start.
func (n *Process) PID() int { return n.cmd.Process.Pid }

// Signal sends a signal.
func (n *Process) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Fatal(err)
	}
}

// Kill9 kills the process and waits until it is gone.
func (n *Process) Kill9() {
	n.t.Helper()
	n.Signal(syscall.SIGKILL)
	<-n.done
}

// Terminate sends SIGTERM, and returns the exit code and how long the process took.
func (n *Process) Terminate() (code int, took time.Duration) {
	n.t.Helper()
	start := time.Now()
	n.Signal(syscall.SIGTERM)
	return n.Wait(), time.Since(start)
}

// Wait waits until the process ends by itself, and returns its exit code.
func (n *Process) Wait() int {
	n.t.Helper()
	return n.WaitFor(Patience)
}

// WaitFor is Wait for a process that takes longer than Patience.
func (n *Process) WaitFor(limit time.Duration) int {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(limit):
		n.t.Fatalf("%s does not end; its log:\n%s", n.Name, n.Log())
	}
	return n.cmd.ProcessState.ExitCode()
}

// WaitReady waits until the node says that it is ready.
func (n *Process) WaitReady() {
	n.t.Helper()
	Eventually(n.t, n.Name+" is ready", func() error {
		if !n.Running() {
			n.t.Fatalf("%s has ended: %v; its log:\n%s", n.Name, n.err, n.Log())
		}
		resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(n.URL() + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			text, _ := io.ReadAll(resp.Body)
			return errorf("%s: %s", resp.Status, text)
		}
		return nil
	})
}

// Stats returns a database node's statistics.
func (n *Process) Stats() (api.Stats, error) {
	var s api.Stats
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(n.URL() + "/stats")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// SameHistory waits until the running nodes have the same revision and digest, and returns
// both.
func SameHistory(t testing.TB, nodes ...*Process) (revision uint64, digest string) {
	t.Helper()
	Eventually(t, "the same history on all database nodes", func() error {
		revision, digest = 0, ""
		for _, n := range nodes {
			s, err := n.Stats()
			if err != nil {
				return err
			}
			if digest != "" && (s.Revision != revision || s.Digest != digest) {
				return errorf("%s is at revision %d, another at %d", n.Name, s.Revision, revision)
			}
			revision, digest = s.Revision, s.Digest
		}
		return nil
	})
	return revision, digest
}

// WithTimeout returns a context for one operation of a test.
func WithTimeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	t.Cleanup(cancel)
	return ctx
}
