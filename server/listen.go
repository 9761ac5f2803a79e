package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// listener is a bound address and the HTTP server behind it.
type listener struct {
	ln  *connections
	srv *http.Server
	url string // what others are told
}

// listen binds addr for as many connections as there are places. What others are told is
// advertise, or addr itself.
func listen(addr, advertise, what string, p places, logger *slog.Logger) (*listener, error) {
	l, err := bind(addr, what, p, logger)
	if err == nil && advertise != "" {
		l.url = advertise
	}
	return l, err
}

// bind binds addr, which may be a wildcard address: then url is how this machine
// itself reaches it.
func bind(addr, what string, p places, logger *slog.Logger) (*listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	host, _, _ := net.SplitHostPort(addr)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if nodeurl.Wildcard(host) {
		host = "127.0.0.1"
	}
	own := "http://" + net.JoinHostPort(host, port)
	if canonical, err := nodeurl.Parse(own); err == nil {
		own = canonical // else nobody but people is told
	}
	return &listener{ln: limitConnections(ln, p, logger), url: own}, nil
}

// listenURL is a listen address as the URL of its host, which may be a name.
func listenURL(addr string) string { return "http://" + addr }

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
		// net/http's own answer to OPTIONS * asks nobody for whom it is, and reads a
		// body without a deadline.
		DisableGeneralOptionsHandler: true,
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
