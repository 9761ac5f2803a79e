package hostile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// farAddress is where attackers come from, unless from the same address as everybody else.
// Only Linux has many loopback addresses.
const farAddress = "127.66.6.6"

// attacker opens connections, and keeps track of them all.
type attacker struct {
	t     *testing.T
	w     *world
	seen  *bystanders
	from  string
	ctx   context.Context // ends with the attack
	leave context.CancelFunc
	wg    sync.WaitGroup
	hc    *http.Client // keeps a few connections

	mu       sync.Mutex
	conns    []net.Conn
	failures map[string]int // by format
}

func newAttacker(t *testing.T, w *world, seen *bystanders, from string) *attacker {
	if runtime.GOOS != "linux" {
		from = ""
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &attacker{t: t, w: w, seen: seen, from: from, ctx: ctx, leave: cancel, failures: map[string]int{}}
	a.hc = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return a.dial(addr, false) }}}
	t.Cleanup(a.end)
	return a
}

// end closes all connections.
func (a *attacker) end() {
	a.leave()
	a.mu.Lock()
	conns := a.conns
	a.conns = nil
	a.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	a.wg.Wait()
}

// hold continues until the bystanders have done everything three times more.
func (a *attacker) hold() {
	a.t.Helper()
	a.seen.rounds(3)
}

// dial connects to addr. small makes the kernel accept little of what the node sends, so that
// a client that does not read blocks it at once.
func (a *attacker) dial(addr string, small bool) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if small {
		d.Control = smallWindow
	}
	if a.from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(a.from)}
	}
	c, err := d.DialContext(a.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ctx.Err() != nil {
		_ = c.Close()
		return nil, a.ctx.Err()
	}
	a.conns = append(a.conns, c)
	return c, nil
}

// smallWindow must be set before the kernel announces a window.
func smallWindow(_, _ string, c syscall.RawConn) error {
	var err error
	controlErr := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	return errors.Join(controlErr, err)
}

// open makes n connections to addr that send text and then nothing. A refused connection is
// not a failure.
func (a *attacker) open(n int, addr, text string) []net.Conn {
	return a.opened(n, addr, text, false)
}

// openDeaf is open for connections that read nothing.
func (a *attacker) openDeaf(n int, addr, text string) []net.Conn {
	return a.opened(n, addr, text, true)
}

func (a *attacker) opened(n int, addr, text string, small bool) (conns []net.Conn) {
	for range n {
		c, err := a.dial(addr, small)
		if err != nil {
			continue
		}
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(c, text)
		_ = c.SetWriteDeadline(time.Time{})
		conns = append(conns, c)
	}
	return conns
}

// trickle sends one byte on each connection every second, until the attack ends.
func (a *attacker) trickle(conns []net.Conn, text string) {
	a.wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-a.ctx.Done():
				return
			case <-tick.C:
			}
			for _, c := range conns {
				_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
				_, _ = io.WriteString(c, text[i%len(text):][:1])
			}
		}
	})
}

// each runs f with every number below n, some at a time, and waits.
func (a *attacker) each(n, atATime int, f func(i int)) {
	slots := make(chan struct{}, atATime)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (r answer) String() string { return fmt.Sprintf("%d: %.600q", r.status, r.body) }

// request sends text unchanged and reads one answer, within limit. The error is io.EOF or the
// like if the node just closed the connection.
func (a *attacker) request(addr, text string, limit time.Duration) (answer, error) {
	c, err := a.dial(addr, false)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.WriteString(c, text) }) // it may answer, and close, before it has read all
	defer wg.Wait()
	defer c.Close()
	return readAnswer(bufio.NewReader(c), methodOf(text))
}

func methodOf(text string) string {
	m, _, _ := strings.Cut(text, " ")
	return m
}

func readAnswer(r *bufio.Reader, method string) (answer, error) {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") { // it has no end
		return answer{resp.StatusCode, resp.Header, ""}, nil
	}
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// closed waits until the other side has closed a connection, and discards what it sends; false
// if that takes longer than limit.
func closed(c net.Conn, limit time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(limit))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

// fail reports in a sentence what went wrong. It reports only the first few of a kind, where
// the format is the kind.
func (a *attacker) fail(format string, args ...any) {
	a.t.Helper()
	const told = 3
	a.mu.Lock()
	a.failures[format]++
	n := a.failures[format]
	a.mu.Unlock()
	if n <= told {
		a.t.Errorf(format, args...)
	}
}

// tellRest reports how often each other failure occurred, by kind.
func (a *attacker) tellRest() {
	for format, n := range a.failures {
		if n > 3 {
			a.t.Logf("%d times in all: %q", n, format)
		}
	}
}

// mustNotExist fails if a key was set that no well-formed request set.
func (a *attacker) mustNotExist(key, how string) {
	a.t.Helper()
	status, body, err := fetch(a.ctx, a.w.DBs[0].URL()+"/key?key="+key)
	switch {
	case err != nil:
		a.fail("whether %s set a key cannot be told: %v", how, err)
	case status != http.StatusNotFound:
		a.fail("%s set a key: GET of %s is %d, %.60q", how, key, status, body)
	}
}
