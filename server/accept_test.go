package server

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// failing is a listener whose next Accepts fail.
type failing struct {
	net.Listener
	errs  []error
	calls atomic.Int64
}

func (f *failing) Accept() (net.Conn, error) {
	if n := int(f.calls.Add(1)) - 1; n < len(f.errs) {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", f.errs[n])}
	}
	return f.Listener.Accept()
}

// A listener survives every error of accept, such as a shortage of files or memory, logs it
// once, and closes an idle connection to make room. Only Close ends it, even while it
// pauses.
func TestConnections_AcceptOutlastsShortages(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	f := &failing{Listener: ln}
	c := limitConnections(f, placesForAll(10), slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := c.Accept(); err != nil {
		t.Fatal(err)
	}
	f.calls.Store(0)
	f.errs = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ECONNABORTED, syscall.EPROTO}
	if _, err := c.Accept(); err != nil {
		t.Fatalf("accept ends with %v", err)
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "ulimit -n") {
		t.Errorf("logged %q", got)
	}
	if got := c.counts(); got.ClosedForRoom == 0 {
		t.Error("nothing made room")
	}
	f.calls.Store(0)
	f.errs = make([]error, 1000)
	for i := range f.errs {
		f.errs[i] = syscall.EMFILE
	}
	ended := make(chan error, 1)
	go func() {
		_, err := c.Accept()
		ended <- err
	}()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a closed listener accepts")
	}
}
