package faults

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// peerProxy is in front of a database node's peer listener, and can damage the snapshot data
// that others pull from it. It passes raft's messages unchanged: raft trusts its peers and
// TCP's checksum.
type peerProxy struct {
	url       string
	damaging  atomic.Bool
	damaged   atomic.Int64 // bodies
	perBody   int64        // offset of the damage
	listening net.Listener
}

// newPeerProxy listens on its own address in the root namespace.
func newPeerProxy(t testing.TB, ip, to string) *peerProxy {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	p := &peerProxy{url: "http://" + ln.Addr().String(), listening: ln, perBody: 3000}
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	reverse.FlushInterval = -1 // raft's streams never end
	reverse.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	reverse.ModifyResponse = func(resp *http.Response) error {
		if strings.Contains(resp.Request.URL.Path, "snapshot") && resp.StatusCode == http.StatusOK && p.damaging.Load() {
			resp.Body = &damagedBody{ReadCloser: resp.Body, at: p.perBody, done: &p.damaged}
		}
		return nil
	}
	server := &http.Server{Handler: reverse}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return p
}

// damagedBody flips one bit of what is read through it.
type damagedBody struct {
	io.ReadCloser
	off, at int64
	done    *atomic.Int64
}

func (b *damagedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if i := b.at - b.off; i >= 0 && i < int64(n) {
		p[i] ^= 0x04
		b.done.Add(1)
	}
	b.off += int64(n)
	return n, err
}
