package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// cpu is processor time, of user code and the kernel.
type cpu struct{ system, loader time.Duration }

func (c cpu) since(before cpu) cpu { return cpu{c.system - before.system, c.loader - before.loader} }

// cpuOf returns the time used so far by all nodes of a system, and by this program.
func cpuOf(s *system) cpu {
	var c cpu
	for _, p := range s.nodes {
		c.system += p.cpu()
	}
	var own syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &own) == nil { // it cannot fail with these arguments
		c.loader = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	}
	return c
}

// userHZ is the unit of times in /proc.
const userHZ = 100

// cpuOfProcess returns 0 without /proc, and for a process that is gone.
func cpuOfProcess(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // behind the name
	const user, kernel = 11, 12
	if len(fields) <= kernel {
		return 0
	}
	var ticks int64
	for _, f := range [][]byte{fields[user], fields[kernel]} {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ
}

// writtenByProcess returns how many bytes a process has caused to be written to disks; 0
// without /proc.
func writtenByProcess(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) == 2 && string(f[0]) == "write_bytes:" {
			n, _ := strconv.ParseInt(string(f[1]), 10, 64) // 0 if it is not a number
			return n
		}
	}
	return 0
}
