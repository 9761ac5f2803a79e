package faults

import (
	"bufio"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// tracer is an strace that is attached to a process and tampers with its
// flushes.
type tracer struct {
	t   testing.TB
	cmd *exec.Cmd
}

// flushes are the system calls by which a node makes things durable: fdatasync
// is the WAL's and bbolt's, fsync that of small files and directories.
const flushes = "fdatasync,fsync"

// tamper makes every flush of a process do what: delay_exit=MICROSECONDS or
// error=EIO. With a path, only flushes of that file.
func tamper(t testing.TB, pid int, what, path string) *tracer {
	t.Helper()
	args := []string{"-f", "-p", strconv.Itoa(pid), "-o", "/dev/null", "-e", "trace=" + flushes, "-e", "inject=" + flushes + ":" + what}
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
	tr := &tracer{t: t, cmd: cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(talk); in.Scan(); {
			select {
			case lines <- in.Text():
			default: // nobody reads any more
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

// end lets the process go on untouched.
func (tr *tracer) end() {
	tr.t.Helper()
	tr.stop(syscall.SIGINT)
}

func (tr *tracer) stop(by syscall.Signal) {
	tr.t.Helper()
	_ = tr.cmd.Process.Signal(by)
	done := make(chan error, 1)
	go func() { done <- tr.cmd.Wait() }()
	clustertest.Eventually(tr.t, "strace ends", func() error {
		select {
		case <-done:
			return nil
		default:
			return fmt.Errorf("it has not")
		}
	})
}
