package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// jiffy is the unit of times in /proc.
const jiffy = 10 * time.Millisecond

// othersTime returns how much time of the processors that this process may use was taken by
// processes other than this one and its children, since some time in the past; false if that
// is unknown. An interrupt counts for the process that it interrupts.
func othersTime() (time.Duration, bool) {
	all, err := processorsTime()
	if err != nil {
		return 0, false
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, false
	}
	self := os.Getpid()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		parent, took, err := processTime(pid)
		if err == nil && (pid == self || parent == self) {
			all -= took
		}
	}
	return time.Duration(all) * jiffy, true
}

// processorsTime returns how many jiffies programs, or another machine on the same processors,
// have taken of the processors that this process may use.
func processorsTime() (all int64, err error) {
	var mine unix.CPUSet
	if err := unix.SchedGetaffinity(0, &mine); err != nil {
		return 0, err
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 9 {
			continue
		}
		number, ok := strings.CutPrefix(fields[0], "cpu")
		processor, err := strconv.Atoi(number)
		if !ok || err != nil || !mine.IsSet(processor) {
			continue
		}
		for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, interrupts of both kinds, stolen
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return 0, err
			}
			all += n
		}
	}
	return all, lines.Err()
}

// processTime returns the parent of a process, and how many jiffies the process and its ended
// children took.
func processTime(pid int) (parent int, took int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := bytes.Cut(text, []byte(") ")) // the name may have spaces
	fields := strings.Fields(string(rest))
	if len(fields) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if parent, err = strconv.Atoi(fields[1]); err != nil {
		return 0, 0, err
	}
	for _, field := range fields[11:15] { // of its own and of those that ended, in user and in system
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		took += n
	}
	return parent, took, nil
}

// TestOthersTime: the work of this process does not count as others'.
func TestOthersTime(t *testing.T) {
	_, before, err := processTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	allBefore, err := processorsTime()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := othersTime(); !ok {
		t.Fatal("what others do cannot be told")
	}
	for own := int64(0); own < 5; {
		_, now, err := processTime(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		own = now - before
	}
	all, err := processorsTime()
	if err != nil {
		t.Fatal(err)
	}
	if all-allBefore < 3 { // ticks are counted where they fall
		t.Errorf("this process took 5 jiffies, and the processors %d", all-allBefore)
	}
}
