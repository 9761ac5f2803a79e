package secure

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"sync/atomic"
)

// Conn is the server's side of a connection. The handshake comes with the first Read, under
// its deadline. A Conn is safe for concurrent use, as a tls.Conn is.
type Conn struct {
	*tls.Conn
	files   *Files
	verdict atomic.Pointer[verdict]
}

// verdict is what was found about the node at the other end.
type verdict struct {
	under *content // the files of then
	key   [sha256.Size]byte
	id    ID
	ok    bool
}

// Accept returns the server's side of a connection.
func (f *Files) Accept(raw net.Conn, face Face) *Conn {
	return &Conn{Conn: tls.Server(raw, f.Server(face)), files: f}
}

// Peer returns which node is at the other end; false if it is no node, or not any more: its
// certificate is revoked, or its authority was taken out. It is cheap unless files changed.
func (c *Conn) Peer() (ID, bool) {
	v := c.verdict.Load()
	if now := c.files.now.Load(); v == nil || v.under != now {
		s := c.ConnectionState()
		if !s.HandshakeComplete {
			return ID{}, false
		}
		v = &verdict{under: now}
		if id, err := c.files.peer(&s); err == nil {
			v.id, v.ok, v.key = id, true, KeyHash(s.PeerCertificates[0])
		}
		c.verdict.Store(v)
	}
	if !v.ok || c.files.cfg.Revoked != nil && c.files.cfg.Revoked(v.key) {
		return ID{}, false
	}
	return v.id, true
}

// Dial makes a connection to a node out of raw, and checks who is there. It closes raw if it
// fails. ctx bounds the handshake.
func (f *Files) Dial(ctx context.Context, raw net.Conn, want Want) (*tls.Conn, error) {
	conn := tls.Client(raw, f.Client(want))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

type callerKey struct{}

// WithCaller returns a context whose Caller is what peer returns when it is asked.
func WithCaller(ctx context.Context, peer func() (ID, bool)) context.Context {
	return context.WithValue(ctx, callerKey{}, peer)
}

// Caller returns which node sent the request with this context; false if it was no node.
func Caller(ctx context.Context) (ID, bool) {
	peer, _ := ctx.Value(callerKey{}).(func() (ID, bool))
	if peer == nil {
		return ID{}, false
	}
	return peer()
}
