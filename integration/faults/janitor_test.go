package faults

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// janitorEnv makes the test binary a janitor.
const janitorEnv = "ONCEKV_FAULTS_JANITOR"

// janitor is a process that outlives a dying test (a timeout, kill -9) and then undoes what
// the test had made. It knows exactly what, because the test tells it of each thing before
// making it.
type janitor struct {
	mu   sync.Mutex
	pipe io.WriteCloser
	cmd  *exec.Cmd
}

func startJanitor() (*janitor, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), janitorEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt from the terminal must not reach it
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the janitor: %w", err)
	}
	return &janitor{pipe: pipe, cmd: cmd}, nil
}

// owe says that command will have to run; paid that it has.
func (j *janitor) owe(command ...string)  { j.tell("+", command) }
func (j *janitor) paid(command ...string) { j.tell("-", command) }

func (j *janitor) tell(what string, command []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = fmt.Fprintln(j.pipe, what+strings.Join(command, "\x00"))
}

func (j *janitor) end() {
	_ = j.pipe.Close()
	_ = j.cmd.Wait()
}

// beJanitor keeps the list of what is owed until its input ends, and then runs it, the latest
// first.
func beJanitor(in io.Reader) int {
	var owed []string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		what, command := lines.Text()[:1], lines.Text()[1:]
		if what == "+" {
			owed = append(owed, command)
		} else if i := slices.Index(owed, command); i >= 0 {
			owed = slices.Delete(owed, i, i+1)
		}
	}
	// The nodes die with the test, but not at once: until then mounts are busy.
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for range 50 {
		slices.Reverse(owed)
		owed = slices.DeleteFunc(owed, func(command string) bool {
			args := strings.Split(command, "\x00")
			return exec.Command(args[0], args[1:]...).Run() == nil
		})
		if len(owed) == 0 {
			break
		}
		slices.Reverse(owed)
		<-again.C
	}
	return 0
}
