package clustertest

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// Patience is how long Eventually waits: long enough for a loaded machine with
// two cores and the race detector.
const Patience = 60 * time.Second

// Eventually polls ok until it returns nil. After Patience it fails the test
// with what was waited for and the last reason.
func Eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", Patience, what, err)
		}
		<-tick.C
	}
}

// FreeAddr returns a loopback address nobody listens on at the moment.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }
