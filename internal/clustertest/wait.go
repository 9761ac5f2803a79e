package clustertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// Patience is how long a test waits for something that must happen: long enough for a loaded
// machine with two cores and the race detector. It only keeps a failing test from hanging, and
// measures nothing.
const Patience = 3 * time.Minute

// Eventually polls ok until it returns nil. After Patience it fails the test with what and the
// last error.
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

// FreeAddr returns a loopback address on which nobody listens, now or later by chance. It is
// not on 127.0.0.1, from which the kernel takes the ports of outgoing connections, unless the
// machine has no other loopback address.
func FreeAddr(t testing.TB) string {
	t.Helper()
	ip := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }
