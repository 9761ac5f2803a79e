package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
)

// process is one server, which can be started again after its end. Its output is in a file
// beside its data.
type process struct {
	name string
	path string
	args []string
	log  string

	parent bool // has child processes, which survive if it is killed

	// mu guards the fields below. Any goroutine may ask for measurements; only one may do the
	// rest.
	mu  sync.Mutex
	run *processRun

	// Sums over earlier runs.
	cpuBefore     time.Duration
	writtenBefore int64
}

// processRun is a process from its start to its end.
type processRun struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; set before done is closed
}

// startProcess runs a program until stop is called. If this program is killed, the kernel
// kills it too, where it can.
func startProcess(dir, name, path string, args ...string) (*process, error) {
	p := &process{name: name, path: path, args: args, log: filepath.Join(dir, name+".log")}
	return p, p.start()
}

// start starts the process, which must not be running.
func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	r := &processRun{cmd: exec.Command(p.path, p.args...), done: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr, r.cmd.SysProcAttr = log, log, diesWithUs()
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	p.run = r
	p.mu.Unlock()
	go func() {
		r.err = r.cmd.Wait()
		close(r.done)
	}()
	return nil
}

// stop ends the process, if it runs, and waits until it is gone: SIGTERM, then SIGKILL after
// stopTimeout.
func (p *process) stop() { p.end(syscall.SIGTERM) }

// kill ends the process like a power cut, except that the kernel keeps what it has.
func (p *process) kill() { p.end(syscall.SIGKILL) }

// finish ends the process when nothing of it is needed any more.
func (p *process) finish() {
	if p.parent {
		p.stop()
	} else {
		p.kill()
	}
}

func (p *process) end(by syscall.Signal) {
	if p.run == nil {
		return // it was never started
	}
	_ = p.run.cmd.Process.Signal(by) // it may have ended
	select {
	case <-p.run.done:
	case <-time.After(stopTimeout):
		_ = p.run.cmd.Process.Kill() // it may have ended now
		<-p.run.done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	state := p.run.cmd.ProcessState
	if used, ok := state.SysUsage().(*syscall.Rusage); ok {
		p.writtenBefore += int64(used.Oublock) * 512
	}
	p.cpuBefore += state.UserTime() + state.SystemTime()
	p.run = nil
}

// pid returns 0 if the process does not run. mu is held.
func (p *process) pid() int {
	if p.run == nil {
		return 0
	}
	return p.run.cmd.Process.Pid
}

// cpu returns the processor time of all runs of the process.
func (p *process) cpu() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cpuBefore + cpuOfProcess(p.pid())
}

// written returns how many bytes all runs have caused to be written to disks.
func (p *process) written() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writtenBefore + writtenByProcess(p.pid())
}

// ended returns an error with the end of the log if the process has ended by itself.
func (p *process) ended() error {
	if p.run == nil {
		return nil
	}
	select {
	case <-p.run.done:
	default:
		return nil
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Errorf("%s has ended (%v), and so has its log: %w", p.name, p.run.err, err)
	}
	return fmt.Errorf("%s has ended: %v; its log ends with:\n%s", p.name, p.run.err, text[max(0, len(text)-2000):])
}

// residentBytes returns the process's memory without page cache; 0 without /proc.
func (p *process) residentBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64) // 0 if it is no number
			return kib << 10
		}
	}
	return 0
}

// freeAddr returns a loopback address on which nobody listens now.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// freeAddrs returns n different ones.
func freeAddrs(n int) ([]string, error) {
	var listeners []net.Listener
	var addrs []string
	var failed error
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			failed = err
			break
		}
		listeners = append(listeners, ln)
		addrs = append(addrs, ln.Addr().String())
	}
	for _, ln := range listeners {
		failed = errors.Join(failed, ln.Close())
	}
	return addrs, failed
}

// eventually polls ok until it returns nil, for startTimeout.
func eventually(ctx context.Context, what string, of []*process, ok func(context.Context) error) error {
	return until(ctx, 100*time.Millisecond, startTimeout, what, of, ok)
}

// until polls ok at an interval until it returns nil. It gives up after limit, or if a process
// has ended.
func until(ctx context.Context, every, limit time.Duration, what string, of []*process, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		for _, p := range of {
			if gone := p.ended(); gone != nil {
				return gone
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
