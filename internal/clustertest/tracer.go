package clustertest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Tracer is an strace attached to a process that tampers with its flushes or writes.
type Tracer struct {
	t   testing.TB
	cmd *exec.Cmd
}

// System calls by which a node makes things durable (fdatasync for the WAL and bbolt, fsync
// for small files and directories), and by which it writes.
const (
	flushes = "fdatasync,fsync"
	writes  = "write,pwrite64,writev,pwritev,pwritev2"
)

// NeedsTracer skips the test if strace does not work, and fails it if every test was
// requested.
func NeedsTracer(t testing.TB) {
	t.Helper()
	if err := exec.Command("strace", "-o", os.DevNull, "true").Run(); err != nil {
		if os.Getenv("ONCEKV_TEST_FULL") != "" {
			t.Fatalf("flushes cannot be made to fail: strace: %v (apt-get install strace)", err)
		}
		t.Skipf("flushes cannot be made to fail: strace: %v", err)
	}
}

// FailingFlushes is a command that runs another one in its place, with every flush of a file
// or directory failing with EIO: see Process.Under.
func FailingFlushes(path string) []string {
	return []string{"strace", "-D", "-f", "-o", os.DevNull, "-P", path, "-e", "trace=" + flushes, "-e", "inject=" + flushes + ":error=EIO"}
}

// Tamper changes every flush of a process: what is delay_exit=MICROSECONDS or error=EIO. With
// a path, it changes only flushes of that file or directory.
func Tamper(t testing.TB, pid int, what, path string) *Tracer {
	t.Helper()
	return tamper(t, pid, flushes, what, path)
}

// TamperWrites is Tamper for writes to a file.
func TamperWrites(t testing.TB, pid int, what, path string) *Tracer {
	t.Helper()
	return tamper(t, pid, writes, what, path)
}

func tamper(t testing.TB, pid int, calls, what, path string) *Tracer {
	t.Helper()
	args := []string{"-f", "-p", strconv.Itoa(pid), "-o", "/dev/null", "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what}
	if path != "" {
		args = append(args, "-P", path)
	}
	cmd := exec.Command("strace", args...)
	talk, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = diesWithTest()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr := &Tracer{t: t, cmd: cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(talk); in.Scan(); {
			select {
			case lines <- in.Text():
			default: // nobody is reading
			}
		}
	}()
	for line := range lines {
		if strings.Contains(line, "attached") {
			return tr
		}
	}
	t.Fatalf("strace ended without attaching to process %d", pid)
	return nil
}

// End lets the process continue untouched.
func (tr *Tracer) End() {
	tr.t.Helper()
	tr.Stop(syscall.SIGINT)
}

// Stop ends the strace with a signal and waits for it.
func (tr *Tracer) Stop(by syscall.Signal) {
	tr.t.Helper()
	_ = tr.cmd.Process.Signal(by)
	done := make(chan error, 1)
	go func() { done <- tr.cmd.Wait() }()
	Eventually(tr.t, "strace ends", func() error {
		select {
		case <-done:
			return nil
		default:
			return fmt.Errorf("it has not")
		}
	})
}
