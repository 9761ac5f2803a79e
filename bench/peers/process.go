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
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
)

// process is one server. Its output is in a file beside its data.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error // of Wait; set before done is closed
}

// startProcess runs a program until stop is called. If this program is killed,
// the kernel kills it too, where it can.
func startProcess(dir, name, path string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(path, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = log, log, diesWithUs()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the process and waits until it is gone: SIGTERM, and SIGKILL after
// stopTimeout.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill() // it may have ended now
		<-p.done
	}
	_ = p.log.Close() // nothing of it was written here
}

// ended returns an error with the end of the log if the process has ended.
func (p *process) ended() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return fmt.Errorf("%s has ended (%v), and so has its log: %w", p.name, p.err, err)
	}
	return fmt.Errorf("%s has ended: %v; its log ends with:\n%s", p.name, p.err, text[max(0, len(text)-2000):])
}

// residentBytes is the memory that the process has, without page cache; 0 where
// there is no /proc.
func (p *process) residentBytes() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
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

// freeAddr is a loopback address that nobody listens on now.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// freeAddrs are n different ones.
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

// eventually asks ok every 100 ms until it returns nil; after startTimeout, or
// when a process has ended, it gives up.
func eventually(ctx context.Context, what string, of []*process, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
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
