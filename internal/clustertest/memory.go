package clustertest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Memory is a process's memory in bytes.
//
// Anonymous is what the program itself allocated. The rest of Resident is mapped files:
// bbolt's pages, which the kernel keeps while it has no better use for the memory. They say
// nothing about the program.
type Memory struct {
	Resident  int64
	Peak      int64 // of Resident, since the process began
	Anonymous int64
}

func (m Memory) String() string {
	return fmt.Sprintf("RSS %d MiB (peak %d), anonymous %d MiB", m.Resident>>20, m.Peak>>20, m.Anonymous>>20)
}

// Memory returns the process's current memory.
func (n *Process) Memory() (Memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	fields := map[string]*int64{"VmRSS:": &m.Resident, "VmHWM:": &m.Peak, "RssAnon:": &m.Anonymous}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || fields[f[0]] == nil {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("%s of %s: %w", f[0], n.Name, err)
		}
		*fields[f[0]] = kib << 10
		delete(fields, f[0])
	}
	if len(fields) != 0 { // a process that has just ended
		return Memory{}, fmt.Errorf("%s has no memory figures", n.Name)
	}
	return m, nil
}

// MemoryWatch samples the memory of processes, because the kernel remembers only the peak of
// Resident.
type MemoryWatch struct {
	t     testing.TB
	nodes []*Process
	stopC chan struct{}
	wg    sync.WaitGroup
	peaks map[*Process]int64 // of Anonymous; read after wg
}

// WatchMemory starts to sample running processes.
func WatchMemory(t testing.TB, nodes ...*Process) *MemoryWatch {
	w := &MemoryWatch{t: t, nodes: nodes, stopC: make(chan struct{}), peaks: map[*Process]int64{}}
	w.wg.Go(w.run)
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *MemoryWatch) run() {
	const every = 20 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, n := range w.nodes {
			if m, err := n.Memory(); err == nil {
				w.peaks[n] = max(w.peaks[n], m.Anonymous)
			}
		}
		select {
		case <-tick.C:
		case <-w.stopC:
			return
		}
	}
}

func (w *MemoryWatch) stop() {
	if w.stopC != nil {
		close(w.stopC)
		w.wg.Wait()
		w.stopC = nil
	}
}

// Bound ends the watch, logs the memory of the given processes, and fails the test if the
// anonymous memory ever exceeded limit.
func (w *MemoryWatch) Bound(limit int64, nodes ...*Process) {
	w.t.Helper()
	w.stop()
	for _, n := range nodes {
		now := "has ended"
		if m, err := n.Memory(); err == nil {
			now = m.String() + " now"
		}
		w.t.Logf("%s: %s, anonymous %d MiB at most", n.Name, now, w.peaks[n]>>20)
		if w.peaks[n] > limit || w.peaks[n] == 0 {
			w.t.Errorf("%s had %d MiB of anonymous memory; want at most %d", n.Name, w.peaks[n]>>20, limit>>20)
		}
	}
}
