package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// listener is a bound address and the HTTP server behind it.
type listener struct {
	ln  *connections
	srv *http.Server
	url string // what others are told
}

// ErrAdvertise is returned for an address that others could not use: a
// wildcard listener needs to be told its own name.
var ErrAdvertise = errors.New("a wildcard address needs an advertised URL")

// listen binds addr for at most limit connections, 0 for the default. What
// others are told is advertise, or addr itself.
func listen(addr, advertise, what string, limit int) (*listener, error) {
	if err := CheckAdvertise(addr, advertise); err != nil {
		return nil, err
	}
	l, err := bind(addr, what, limit)
	if err == nil && advertise != "" {
		l.url = advertise
	}
	return l, err
}

// bind binds addr, which may be a wildcard address: then url is how this machine
// itself reaches it.
func bind(addr, what string, limit int) (*listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	host, _, _ := net.SplitHostPort(addr)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if wildcard(host) {
		host = "127.0.0.1"
	}
	return &listener{ln: limitConnections(ln, limit), url: "http://" + net.JoinHostPort(host, port)}, nil
}

func wildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// CheckAdvertise reports whether others can be told a URL for a listener at
// addr: ErrAdvertise for a wildcard address without one, and a sentence for
// what is no address or no http://host:port.
func CheckAdvertise(addr, advertise string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("the listen address %q must look like 127.0.0.1:11000: %w", addr, err)
	}
	if advertise != "" {
		u, err := url.Parse(advertise)
		if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return fmt.Errorf("the advertised URL %q must look like http://host:port", advertise)
		}
		return nil
	}
	if wildcard(host) {
		return fmt.Errorf("%w: others cannot connect to %q; say --advertise http://HOST:PORT", ErrAdvertise, addr)
	}
	return nil
}

// prepare sets the handler. Bodies and answers have no deadline here: their
// handlers set one by progress.
func (l *listener) prepare(h http.Handler, logger *slog.Logger) {
	l.srv = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnState:         l.ln.changed,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// serve answers requests until drain.
func (l *listener) serve() error {
	if err := l.srv.Serve(l.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.ln.Addr(), err)
	}
	return nil
}

// drain stops accepting and waits for requests in flight, at most as long as
// ctx allows.
func (l *listener) drain(ctx context.Context) {
	if l.srv.Shutdown(ctx) != nil {
		_ = l.srv.Close()
	}
	l.ln.refusals.Wait()
}
