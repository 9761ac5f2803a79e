package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// suite is the compiled tests of one package.
type suite struct {
	dir     string
	program string
	tests   []*test
}

// test is one test of a suite.
type test struct {
	suite   *suite
	name    string
	args    []string
	work    time.Duration // processor time, which depends little on other programs
	took    time.Duration
	reached []byte // by mutant: 1 if the test reached it
}

// simulation is the prefix of raftnode's tests that form their own stage.
const simulation = "TestSimulation"

// left matches tests that are not run against mutants: they build the program from the source,
// or look at the source.
var left = regexp.MustCompile(`^(Benchmark|TestControls)`)

// names lists the tests of a suite.
func (s *suite) names(ctx context.Context, root string) ([]string, error) {
	cmd := exec.CommandContext(ctx, s.program, "-test.list", ".")
	cmd.Dir = filepath.Join(root, s.dir)
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests of %s: %w", s.dir, err)
	}
	var names []string
	for name := range strings.FieldsSeq(string(output)) {
		if !left.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// trial is one run of some tests of a suite.
type trial struct {
	suite   *suite
	tests   []string
	args    []string
	mutant  int    // 0: none
	reached string // file, or none
	limit   time.Duration
}

// fate is how a trial ended.
type fate struct {
	dead    bool
	slow    bool          // it was ended
	by      string        // the test that failed, as far as it is known
	work    time.Duration // of processors
	took    time.Duration
	output  string
	program error // the trial could not be made
}

// Limits of a mutant: bytes of memory, and KiB of each file.
const (
	memoryMax = 4 << 30
	fileMax   = 8 << 20
)

var (
	failed = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	inTest = regexp.MustCompile(`(?m)^\S+\.((?:Test|Fuzz|Example)[A-Za-z0-9_]*)(?:\.func\S*)?\(`)
)

// culprit returns the test that failed: the only one, the one that says so, or the one whose
// goroutine panicked.
func culprit(output string, tests []string) string {
	if len(tests) == 1 {
		return tests[0]
	}
	for _, says := range []*regexp.Regexp{failed, inTest} {
		if m := says.FindStringSubmatch(output); m != nil {
			return m[1]
		}
	}
	return "?"
}

// try runs a trial in a temporary directory and removes that.
func try(parent context.Context, root, work string, t *trial) fate {
	temp, err := os.MkdirTemp(work, "t")
	if err != nil {
		return fate{program: err}
	}
	defer os.RemoveAll(temp)
	ctx, cancel := context.WithTimeout(parent, t.limit)
	defer cancel()
	args := append([]string{"-c", fmt.Sprintf(`ulimit -f %d; exec "$0" "$@"`, fileMax), t.suite.program,
		"-test.run", "^(" + strings.Join(t.tests, "|") + ")$", "-test.failfast", "-test.timeout", "0"}, t.args...)
	cmd := exec.CommandContext(ctx, "bash", args...)
	cmd.Dir = filepath.Join(root, t.suite.dir)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, fmt.Sprintf("%s=%d", activeVariable, t.mutant), reachedVariable+"="+t.reached)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with what it starts
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	began := time.Now()
	if err = cmd.Start(); err == nil {
		unwatch := watchMemory(cmd.Process.Pid, cancel)
		err = cmd.Wait()
		unwatch()
	}
	f := fate{took: time.Since(began), output: output.String()}
	if cmd.ProcessState != nil {
		f.work = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		f.dead, f.slow, f.by = true, true, "time"
	case parent.Err() != nil:
		f.program = context.Cause(parent)
	case ctx.Err() != nil:
		f.dead, f.slow, f.by = true, true, "memory"
	case err == nil:
	case errors.As(err, &exit):
		f.dead, f.by = true, culprit(f.output, t.tests)
	default:
		f.program = err
	}
	return f
}

// watchMemory calls kill if a process takes too much memory, until stop is called. It needs
// Linux's /proc; without it, it does nothing.
func watchMemory(pid int, kill func()) (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
			if err != nil {
				continue
			}
			var size, resident int64
			if _, err := fmt.Sscan(string(raw), &size, &resident); err == nil && resident*int64(os.Getpagesize()) > memoryMax {
				kill()
			}
		}
	})
	return func() {
		close(over)
		wg.Wait()
	}
}
