package nodehttp

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// dialer makes connections to nodes.
type dialer struct {
	net.Dialer
	stall time.Duration
	max   int // at the same time to one address; 0: any number

	mu    sync.Mutex
	slots map[string]*slots // by address, while it is dialed
}

// slots are the places for dials of one address.
type slots struct {
	taken chan struct{}
	users int // that have one or wait for one
}

func newDialer(o Options) *dialer {
	return &dialer{
		Dialer: net.Dialer{Timeout: cmp.Or(o.DialTimeout, dialTimeout), KeepAlive: keepAlive, Control: checkAddress},
		stall:  o.StallTimeout, max: o.DialsMax, slots: make(map[string]*slots),
	}
}

// checkAddress is called after a name was resolved, for each address that is tried.
func checkAddress(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err == nil {
		err = nodeurl.CheckAddr(to.Addr())
	}
	if err != nil {
		return fmt.Errorf("nodes do not connect to %s: %w", address, err)
	}
	return nil
}

// dial connects. A thousand requests that begin at once would overflow the other side's queue,
// and its kernel drops what does not fit: some would wait for a second and fail. So those
// beyond max wait here, and use connections that come free meanwhile.
func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if d.max > 0 {
		leave, err := d.enter(ctx, address)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil || d.stall == 0 {
		return conn, err
	}
	return &impatientConn{Conn: conn, stall: d.stall}, nil
}

func (d *dialer) enter(ctx context.Context, address string) (leave func(), err error) {
	d.mu.Lock()
	s := d.slots[address]
	if s == nil {
		s = &slots{taken: make(chan struct{}, d.max)}
		d.slots[address] = s
	}
	s.users++
	d.mu.Unlock()
	select {
	case s.taken <- struct{}{}:
		return func() {
			<-s.taken
			d.forget(address, s)
		}, nil
	case <-ctx.Done():
		d.forget(address, s)
		return nil, ctx.Err()
	}
}

// forget drops the slots of an address that nothing dials.
func (d *dialer) forget(address string, s *slots) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(d.slots, address)
	}
}

// impatientConn ends reads and writes that wait too long.
type impatientConn struct {
	net.Conn
	stall time.Duration
}

func (c *impatientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *impatientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
