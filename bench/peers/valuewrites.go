package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// writes counts the bytes that each node writes for values of all sizes. The kernel counts
// them, as pages that the process made dirty.
func (v *values) writes(ctx context.Context) error {
	for _, size := range v.Values.Sizes {
		for _, atATime := range []int{inFlight, 1} {
			count := v.count(int64(size), atATime)
			if atATime == inFlight && count == 1 {
				continue // a single value is measured below
			}
			var rounds []float64
			for range v.Values.Rounds {
				per, err := v.writtenFor(ctx, int64(size), count, atATime)
				if err != nil {
					return err
				}
				rounds = append(rounds, slices.Max(per))
			}
			f := finding{}
			switch whole := atATime == inFlight || count == 1; {
			case whole && size >= 64<<10:
				f.AtMost = 1.1
			case whole && size >= 16<<10:
				f.AtMost = 1.3
			}
			v.figure(fmt.Sprintf("%s of %s, %d in flight: bytes written ÷ of values", things(count, "value"), sized(int64(size)), min(atATime, count)), f, rounds...)
		}
	}
	return nil
}

// count returns how many values of a size are put.
func (v *values) count(size int64, atATime int) int {
	most := v.Values.PutsMax
	if atATime == 1 {
		most /= 32
	}
	return min(max(1, int(int64(v.Values.Total)/size)), most)
}

func things(n int, what string) string {
	if n == 1 {
		return "a " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// writtenFor puts values, waits until the nodes write no more, and returns how many bytes each
// node has written for each byte of value.
func (v *values) writtenFor(ctx context.Context, size int64, count, atATime int) ([]float64, error) {
	if err := v.rest(ctx); err != nil {
		return nil, err
	}
	var before []int64
	for _, p := range v.databases() {
		before = append(before, p.written())
	}
	if err := v.putMany(ctx, size, count, atATime); err != nil {
		return nil, err
	}
	if err := v.rest(ctx); err != nil {
		return nil, err
	}
	var per []float64
	for i, p := range v.databases() {
		per = append(per, float64(p.written()-before[i])/float64(size*int64(count)))
	}
	return per, nil
}

// rest waits until the nodes write no more and the disk has everything.
func (v *values) rest(ctx context.Context) error {
	_, err := v.settled(ctx, v.sys)
	syscall.Sync()
	return err
}

// traceSize is the size of the values whose writes are traced.
const traceSize = 64 << 10

// trace counts the same in another way: by the results of write(2) and its relatives, for each
// kind of file.
func (v *values) trace(ctx context.Context) error {
	if _, err := exec.LookPath("strace"); err != nil {
		say("left out: strace is not installed\n")
		return nil
	}
	var tracers []*tracer
	defer func() {
		for _, t := range tracers {
			t.stop()
		}
	}()
	for _, p := range v.databases() {
		t, err := attach(p.run.cmd.Process.Pid, filepath.Join(v.sys.dir, p.name+".trace"))
		if err != nil {
			return err
		}
		tracers = append(tracers, t)
	}
	count := v.count(traceSize, inFlight)
	per, err := v.writtenFor(ctx, traceSize, count, inFlight)
	if err != nil {
		return err
	}
	most := map[string]float64{}
	for i, t := range tracers {
		t.stop()
		written, err := t.written(filepath.Join(v.sys.dir, v.databases()[i].name))
		if err != nil {
			return err
		}
		all := int64(0)
		for kind, n := range written {
			most[kind] = max(most[kind], float64(n)/float64(traceSize*count))
			all += n
		}
		most["all"] = max(most["all"], float64(all)/float64(traceSize*count))
	}
	name := fmt.Sprintf("%d values of %s, %d in flight, traced: ", count, sized(traceSize), inFlight)
	v.figure(name+"bytes written ÷ of values, by the kernel's count", finding{}, slices.Max(per))
	v.figure(name+"bytes written ÷ of values, by system calls", finding{AtMost: 1.1}, most["all"])
	for _, kind := range slices.Sorted(maps.Keys(most)) {
		if kind != "all" {
			v.figure(name+"of these to "+kind, finding{}, most[kind])
		}
	}
	return nil
}

// writing lists the system calls that write to an open file.
const writing = "write,pwrite64,writev,pwritev,pwritev2"

// tracer is an strace of a process's writes.
type tracer struct {
	cmd  *exec.Cmd
	file string
	over bool
}

func attach(pid int, file string) (*tracer, error) {
	cmd := exec.Command("strace", "-f", "-y", "-s", "0", "-e", "trace="+writing, "-o", file, "-p", strconv.Itoa(pid))
	talk, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = diesWithUs()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	t := &tracer{cmd: cmd, file: file}
	for in := bufio.NewReader(talk); ; {
		line, err := in.ReadString('\n')
		if strings.Contains(line, "attached") {
			return t, nil // what it says of later threads fits into the pipe, or it waits for stop
		}
		if err != nil {
			t.stop()
			return nil, fmt.Errorf("strace ended without attaching to process %d", pid)
		}
	}
}

// stop ends the strace. The process continues.
func (t *tracer) stop() {
	if t.over {
		return
	}
	t.over = true
	_ = t.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	_ = t.cmd.Wait()                         // its code is that of the signal
}

// Lines of an strace: a whole call, the beginning of an interrupted call, and its end.
var (
	callLine    = regexp.MustCompile(`^(\d+) +\w+\(\d+<([^>]*)>.* = (\d+)$`)
	begunLine   = regexp.MustCompile(`^(\d+) +\w+\(\d+<([^>]*)>.*<unfinished \.\.\.>$`)
	resumedLine = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>.* = (\d+)$`)
)

// written sums what was written to files below a directory, by kind.
func (t *tracer) written(dir string) (map[string]int64, error) {
	f, err := os.Open(t.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	sums, begun := map[string]int64{}, map[string]string{}
	count := func(path, bytes string) {
		if name, below := strings.CutPrefix(path, dir+"/"); below {
			n, _ := strconv.ParseInt(bytes, 10, 64) // digits
			sums[kindOf(name)] += n
		}
	}
	for in := bufio.NewReader(f); ; {
		line, err := in.ReadString('\n')
		line = strings.TrimRight(line, "\n")
		if m := callLine.FindStringSubmatch(line); m != nil {
			count(m[2], m[3])
		} else if m := begunLine.FindStringSubmatch(line); m != nil {
			begun[m[1]] = m[2]
		} else if m := resumedLine.FindStringSubmatch(line); m != nil {
			count(begun[m[1]], m[2])
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return sums, err
		}
	}
}

// kindOf returns the directory of a node's file, or the file if it is in none.
func kindOf(name string) string {
	kind, _, in := strings.Cut(name, "/")
	if in {
		kind += "/"
	}
	return kind
}
