package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/adminui"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/metrics"
	"github.com/Focinfi/oncekv/internal/version"
)

// AdminConfig describes an admin. Listen and Nodes are required.
type AdminConfig struct {
	Listen string   // host:port; port 0 chooses a free one
	Nodes  []string // client URLs of database nodes to begin with
	// MaxConnections is as in DatabaseConfig.
	MaxConnections int
	Logger         *slog.Logger
}

// Admin is a running admin. All methods may be called from any goroutine.
type Admin struct {
	public  *listener
	watch   *adminui.Watch
	forward *forward.Handler
	started time.Time

	stop     context.CancelFunc
	streams  chan struct{} // closed by Close: event streams end
	running  sync.WaitGroup
	closing  sync.Once
	failOnce sync.Once
	done     chan struct{}
	err      error // set before done is closed
}

// adminName is the name of an admin in logs and metrics. There may be several:
// they hold nothing that could differ.
const adminName = "admin"

// StartAdmin binds an admin's listener and returns; ctx bounds nothing but the
// call. The admin finds the nodes by itself, and serves its page meanwhile.
func StartAdmin(ctx context.Context, cfg AdminConfig) (*Admin, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	logger := cfg.Logger.With("node", adminName)
	watch, err := adminui.NewWatch(adminui.WatchConfig{
		Nodes: cfg.Nodes, Shares: cachetier.Shares, Owner: cachetier.Owner, Version: version.String(), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	public, err := bind(cfg.Listen, "browsers", cfg.MaxConnections)
	if err != nil {
		return nil, err
	}
	a := &Admin{public: public, watch: watch, started: time.Now(), done: make(chan struct{}), streams: make(chan struct{})}
	a.forward = forward.New(forward.Config{Databases: watch.Databases, Logger: logger})
	figures := metrics.NewAdmin(adminName, a.figures)
	figures.Watch(public.ln.figures)
	public.prepare(httpapi.NewAdmin(httpapi.AdminConfig{
		Overview: watch, Page: adminui.NewPage(), Forward: http.HandlerFunc(a.pass), Stats: func() any { return a.figures() }, Ready: a.Ready,
		Logger: logger, Metrics: figures.Handler(), Traffic: figures.Traffic, Closing: a.streams,
	}), logger)
	runCtx, stop := context.WithCancel(context.Background())
	a.stop = stop
	a.running.Go(func() { a.finish(public.serve()) })
	a.running.Go(func() { watch.Run(runCtx) })
	return a, nil
}

// pass forwards a request, and has a look at once when it may have changed the
// cluster.
func (a *Admin) pass(w http.ResponseWriter, r *http.Request) {
	a.forward.ServeHTTP(w, r)
	if r.Method != http.MethodGet && (strings.HasPrefix(r.URL.Path, "/members") || r.URL.Path == "/leader") {
		a.watch.Look()
	}
}

// finish ends the admin when a part of it ends by itself with an error.
func (a *Admin) finish(err error) {
	if err == nil {
		return
	}
	a.failOnce.Do(func() {
		a.err = err
		a.stop()
		_ = a.public.srv.Close()
		close(a.done)
	})
}

func (a *Admin) figures() client.AdminStats {
	now := a.watch.State()
	s := client.AdminStats{
		Name: adminName, URL: a.public.url, Role: client.RoleAdmin, Ready: len(now.Members) > 0,
		Members: len(now.Members), Caches: len(now.Caches), Version: version.String(), UptimeSeconds: time.Since(a.started).Seconds(),
	}
	for _, m := range now.Members {
		if m.Status == adminui.StatusDown {
			s.Down++
		}
	}
	for _, c := range now.Caches {
		if c.Status == adminui.StatusDown && !c.Left {
			s.Down++
		}
	}
	return s
}

// Close ends event streams, finishes requests in flight as long as ctx allows,
// and stops. It returns why the admin had stopped before, if it had.
func (a *Admin) Close(ctx context.Context) error {
	a.closing.Do(func() {
		close(a.streams)
		a.public.drain(ctx)
		a.stop()
		a.running.Wait()
		a.forward.Close()
		a.failOnce.Do(func() { close(a.done) })
	})
	<-a.done
	return a.err
}

// Done is closed when the admin has stopped, by Close or by itself.
func (a *Admin) Done() <-chan struct{} { return a.done }

// Err says why the admin stopped by itself; nil before Done is closed and after
// Close.
func (a *Admin) Err() error {
	select {
	case <-a.done:
		return a.err
	default:
		return nil
	}
}

// URL returns where browsers reach the admin.
func (a *Admin) URL() string { return a.public.url }

// Ready returns nil once a database node has told which nodes there are.
func (a *Admin) Ready(context.Context) error {
	if len(a.watch.State().Members) == 0 {
		return errors.New("no database node has told yet which nodes there are")
	}
	return nil
}
