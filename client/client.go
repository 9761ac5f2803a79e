package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Config says where the nodes are and how patient to be. Only Endpoints is
// required.
type Config struct {
	// Endpoints are node URLs such as http://127.0.0.1:11000, or 127.0.0.1:11000
	// for short: database nodes (any of them takes any request) or, for keys only,
	// cache nodes.
	Endpoints []string

	// HTTPClient replaces the default client. Redirects are never followed,
	// whatever it says: the API has none.
	HTTPClient *http.Client

	// RetryTimeout bounds how long new tries are begun when the caller's
	// context has no deadline; default 30 s. A try that makes progress is not
	// cut off by it; one that stands still ends with it.
	RetryTimeout time.Duration

	// SingleRequests makes every Put and Get a request of its own. Else those
	// that are under way at the same time travel together where the node can do
	// that.
	SingleRequests bool

	// IdleTimeout abandons a try in which no byte has moved for so long,
	// waiting for the answer included; default 10 s.
	IdleTimeout time.Duration

	// FailRefused ends a request at once, with ErrNobodyListens, when every
	// endpoint refuses to connect, or has a name that does not exist, and none
	// has answered this client before. Without it new tries are made, as after
	// every other failure.
	FailRefused bool

	// OnSilence is called when a request has moved no byte and had no answer for
	// nearly a second (three, if it has a connection), and a try has failed or no
	// endpoint has ever answered. It is called at most once for each request, from
	// a goroutine that the request waits for, and should return soon.
	OnSilence func(Silence)
}

const (
	retryTimeoutDefault = 30 * time.Second
	idleTimeoutDefault  = 10 * time.Second
	dialTimeout         = 2 * time.Second
	patienceMin         = 500 * time.Millisecond // for a node that answers, but not at once
	backoffMin          = 50 * time.Millisecond
	backoffMax          = 2 * time.Second
	retryAfterMax       = 5 * time.Second
	idleConnsPerHost    = 256
)

// Client talks to a cluster through any of its nodes. It is safe for
// concurrent use. One that is not used any more holds nothing after 20 s, so
// closing it is good for order only.
type Client struct {
	endpoints    []string
	http         *http.Client
	retryTimeout time.Duration
	idleTimeout  time.Duration
	ownTransport bool
	failRefused  bool
	onSilence    func(Silence)
	answered     atomic.Bool // some endpoint has, ever; kept for the two above only

	streams  *coalescer // in which calls travel together
	together *coalescer // the same, for concurrent Puts and Gets; nil: each goes alone

	// ranking says where a request begins, so that a dead endpoint costs one
	// failure and not one per request, and a far one nothing.
	ranking *ranking

	histories histories

	// wait sleeps for d or until ctx ends; tests replace it.
	wait func(ctx context.Context, d time.Duration) error
}

// New checks cfg and returns a client. Nothing is sent.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: no endpoints; give at least one, such as http://127.0.0.1:11000", ErrInvalid)
	}
	c := &Client{retryTimeout: cfg.RetryTimeout, idleTimeout: cfg.IdleTimeout, failRefused: cfg.FailRefused, onSilence: cfg.OnSilence, wait: waitFor}
	for _, endpoint := range cfg.Endpoints {
		e, err := parseEndpoint(endpoint)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, e)
	}
	if c.retryTimeout <= 0 {
		c.retryTimeout = retryTimeoutDefault
	}
	if c.idleTimeout <= 0 {
		c.idleTimeout = idleTimeoutDefault
	}
	c.http, c.ownTransport = httpClient(cfg.HTTPClient), cfg.HTTPClient == nil
	c.ranking = newRanking(len(c.endpoints), time.Now())
	c.streams = newCoalescer(c, cfg.HTTPClient)
	if !cfg.SingleRequests {
		c.together = c.streams
	}
	return c, nil
}

// Close ends the streams in which concurrent calls travel together, waits for
// their goroutines, and drops idle connections that are not of
// Config.HTTPClient. Calls under way, and later ones, go on, each alone.
func (c *Client) Close() {
	c.streams.close()
	if c.ownTransport {
		c.http.CloseIdleConnections()
	}
}

// httpClient copies the given client (or the default) and turns redirects off.
func httpClient(given *http.Client) *http.Client {
	var hc http.Client
	if given != nil {
		hc = *given
	} else {
		hc.Transport = newTransport()
	}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &hc
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost:   idleConnsPerHost,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Values are served as they are; a transparent gunzip would lose
		// Content-Length and the meaning of ranges.
		DisableCompression: true,
	}
}

// backoff is the pause after every endpoint has failed round+1 times: full
// jitter over a doubling window, so that clients that failed together do not
// come back together.
func backoff(round int, retryAfter time.Duration) time.Duration {
	window := backoffMax
	if round < 6 {
		window = min(backoffMin<<round, backoffMax)
	}
	pause := window/4 + rand.N(window)
	return max(pause, min(retryAfter, retryAfterMax))
}

func waitFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
