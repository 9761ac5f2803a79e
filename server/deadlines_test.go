package server

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// connected returns both ends of a connection, the accepted one first.
func connected(tb testing.TB) (*connection, net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	c := limitConnections(ln, placesForAll(4), slog.New(slog.DiscardHandler))
	tb.Cleanup(func() { c.Close() })
	other, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { other.Close() })
	accepted, err := c.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { accepted.Close() })
	return accepted.(*connection), other
}

// soon is long enough for a read to begin and short enough for a test.
const soon = 20 * time.Millisecond

// begun reads in the background and returns when the read waits or has ended: on a slow
// machine it may begin after its deadline.
func begun(c *connection) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		done <- err
	}()
	for len(done) == 0 {
		c.deadlines.mu.Lock()
		reading := c.deadlines.reading
		c.deadlines.mu.Unlock()
		if reading > 0 {
			break
		}
		runtime.Gosched()
	}
	return done
}

func wantDeadline(t *testing.T, err error) {
	t.Helper()
	ne, ok := err.(net.Error)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !ok || !ne.Timeout() {
		t.Errorf("the read ends with %v, want a deadline", err)
	}
}

// A read ends at its deadline, whether that was set before or during the read, or moved to
// an earlier or later time, and whatever deadline the read before it had.
func TestDeadlines_Reads(t *testing.T) {
	past, long := time.Unix(1, 0), time.Hour
	for _, tt := range []struct {
		name          string
		before, while []time.Duration // after now; 0: none; negative: past
		atLeast       time.Duration
	}{
		{"before", []time.Duration{soon}, nil, soon},
		{"the last before", []time.Duration{long, 0, soon}, nil, soon},
		{"while", nil, []time.Duration{soon}, soon},
		{"taken back and set again", []time.Duration{soon}, []time.Duration{0, soon}, soon},
		{"earlier", []time.Duration{long}, []time.Duration{soon}, soon},
		{"later", []time.Duration{soon}, []time.Duration{3 * soon}, 3 * soon},
		{"past before", []time.Duration{-1}, nil, 0},
		{"past while", []time.Duration{long}, []time.Duration{-1}, 0},
		{"past, none, past", []time.Duration{-1, 0}, []time.Duration{-1}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := connected(t)
			for range 3 { // what one read leaves behind must not hurt the next
				start := time.Now()
				set := func(after time.Duration) {
					at := time.Time{}
					switch {
					case after < 0:
						at = past
					case after > 0:
						at = start.Add(after)
					}
					if err := c.SetReadDeadline(at); err != nil {
						t.Fatal(err)
					}
				}
				set(0)
				for _, after := range tt.before {
					set(after)
				}
				var err error
				if tt.while == nil {
					_, err = c.Read(make([]byte, 1))
				} else {
					done := begun(c)
					for _, after := range tt.while {
						set(after)
					}
					err = <-done
				}
				wantDeadline(t, err)
				if took := time.Since(start); took < tt.atLeast {
					t.Errorf("it ended after %v", took)
				}
			}
		})
	}
}

// A read that a withdrawn deadline ends goes on.
func TestDeadlines_OutliveOldOnes(t *testing.T) {
	for name, next := range map[string]time.Time{"none": {}, "later": time.Now().Add(time.Hour)} {
		t.Run(name, func(t *testing.T) {
			c, other := connected(t)
			if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
				t.Fatal(err)
			}
			done := begun(c)
			if err := c.SetReadDeadline(next); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				t.Fatalf("it ended with %v", err)
			case <-time.After(3 * soon):
			}
			if _, err := other.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Copying out of a connection obeys its deadline too.
func TestDeadlines_WriteTo(t *testing.T) {
	c, other := connected(t)
	if _, err := other.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, c)
	wantDeadline(t, err)
	if b.String() != "abc" {
		t.Errorf("read %q", b.String())
	}
}

// A write ends at its deadline, and the next write has none.
func TestDeadlines_Writes(t *testing.T) {
	c, other := connected(t)
	if err := c.SetWriteDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Write(make([]byte, 64<<20)) // more than any buffer takes
	wantDeadline(t, err)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer other.Close()
	reading.Go(func() { _, _ = io.Copy(io.Discard, other) })
	if err := c.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}
