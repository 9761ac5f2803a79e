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
	url string // what the node advertises
}

// listen binds addr with places for connections. Others are told advertise, or addr itself
// if that is empty.
func listen(addr, advertise, what string, p places, logger *slog.Logger) (*listener, error) {
	l, err := bind(addr, what, p, logger)
	if err == nil && advertise != "" {
		l.url = advertise
	}
	return l, err
}

// bind binds addr. If that is a wildcard address, url is how this machine reaches it.
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
		own = canonical // else the URL is only shown to people
	}
	return &listener{ln: limitConnections(ln, p, logger), url: own}, nil
}

// listenURL turns a listen address, whose host may be a name, into a URL.
func listenURL(addr string) string { return "http://" + addr }

// prepare sets the handler. The server sets no deadlines for bodies and answers: their
// handlers set deadlines of progress.
func (l *listener) prepare(h http.Handler, logger *slog.Logger) {
	l.srv = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnState:         l.ln.changed,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		// net/http's own answer to OPTIONS * ignores Host and reads a body without a
		// deadline.
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

// drain stops accepting and waits for requests in flight as long as ctx allows.
func (l *listener) drain(ctx context.Context) {
	if l.srv.Shutdown(ctx) != nil {
		_ = l.srv.Close()
	}
	l.ln.refusals.Wait()
}
