package nodehttp

import (
	"cmp"
	"net/http"
	"time"
)

// Options are what clients of nodes differ in. Zero values take the defaults.
type Options struct {
	// DialTimeout bounds making a connection; default 2 s.
	DialTimeout time.Duration
	// DialsMax bounds how many connections to one address are made at the same time; 0: any
	// number.
	DialsMax int
	// AnswerTimeout bounds the time from the end of a request to the header of its answer; 0:
	// any time. The caller's context bounds the rest.
	AnswerTimeout time.Duration
	// StallTimeout ends a connection on which a read or a write has waited for so long; 0:
	// none. Idle connections count, so it is for streams that always carry something.
	StallTimeout time.Duration
	// IdleTimeout is how long a connection without a request is kept, default 90 s, and
	// IdlePerHost how many of them to each address, default 2; negative for none.
	IdleTimeout time.Duration
	IdlePerHost int
	// ContinueTimeout is how long a request with "Expect: 100-continue" waits before it sends
	// its body; 0: not at all.
	ContinueTimeout time.Duration
}

const (
	dialTimeout = 2 * time.Second
	idleTimeout = 90 * time.Second
	keepAlive   = 15 * time.Second
	headerMax   = 64 << 10 // bytes of an answer's header
)

// NewTransport returns a transport for requests to nodes.
func NewTransport(o Options) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // see the package's invariants
		DialContext:            newDialer(o).dial,
		MaxIdleConnsPerHost:    o.IdlePerHost,
		IdleConnTimeout:        cmp.Or(o.IdleTimeout, idleTimeout),
		ResponseHeaderTimeout:  o.AnswerTimeout,
		ExpectContinueTimeout:  o.ContinueTimeout,
		MaxResponseHeaderBytes: headerMax,
		DisableCompression:     true,
	}
}

// NewClient returns a client for requests to nodes. Requests end with their contexts.
func NewClient(o Options) *http.Client { return Over(NewTransport(o)) }

// Over returns a client that follows no redirect, on a transport that NewTransport made.
func Over(transport *http.Transport) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
