package cachetier

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialsMax is how many connections to one address are made at the same time.
// A thousand loads that begin at once would otherwise overflow the other side's
// queue, whose kernel drops what does not fit: some would wait for a second and
// fail. Those that wait here take connections that come free meanwhile.
const dialsMax = 64

// dialer makes connections, a bounded number for each address at the same time.
type dialer struct {
	net.Dialer

	mu    sync.Mutex
	slots map[string]chan struct{} // by address: the nodes there are
}

func newDialer(timeout time.Duration) *dialer {
	return &dialer{Dialer: net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}, slots: make(map[string]chan struct{})}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	slots := d.slots[address]
	if slots == nil {
		slots = make(chan struct{}, dialsMax)
		d.slots[address] = slots
	}
	d.mu.Unlock()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return d.DialContext(ctx, network, address)
}
