package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/adminui"
	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/hosts"
	"github.com/Focinfi/oncekv/internal/version"
	"github.com/Focinfi/oncekv/server/metrics"
)

// AdminConfig describes an admin. Listen and Nodes are required.
type AdminConfig struct {
	Listen string   // host:port; port 0 chooses a free one
	Nodes  []string // client URLs of the first database nodes to ask
	// MaxConnections, Descriptors and AllowedHosts are as in DatabaseConfig.
	MaxConnections int
	Descriptors    *Descriptors
	AllowedHosts   []string
	Logger         *slog.Logger
}

// Admin is a running admin. All methods may be called from any goroutine.
type Admin struct {
	*diskless
	watch   *adminui.Watch
	forward *forward.Handler
}

// adminName names every admin in logs and metrics. There may be several: they hold no
// state.
const adminName = "admin"

// StartAdmin binds an admin's listener and returns; ctx bounds only the call. The admin
// finds the nodes by itself and serves its page meanwhile. A configuration that cannot work
// returns a *SettingError.
func StartAdmin(ctx context.Context, cfg AdminConfig) (*Admin, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	logger := cfg.Logger.With("node", adminName)
	watch, err := adminui.NewWatch(adminui.WatchConfig{
		Nodes: cfg.Nodes, Shares: cachetier.Shares, Owner: cachetier.Owner, Version: version.String(), Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	files, err := cfg.Descriptors.orOwn(NodeCounts{Admins: 1})
	if err != nil {
		return nil, err
	}
	public, err := bind(cfg.Listen, "browsers", placesForAll(files.admin(cfg.MaxConnections, logger)), logger)
	if err != nil {
		return nil, listenError("listen", err)
	}
	names, err := hosts.New(hosts.Config{Allowed: cfg.AllowedHosts, URLs: append([]string{public.url, listenURL(cfg.Listen)}, cfg.Nodes...), Members: func() []string { return memberURLsOf(watch.State()) }})
	if err != nil {
		_ = public.ln.Close()
		return nil, err
	}
	a := &Admin{diskless: newDiskless(public), watch: watch}
	a.forward = forward.New(forward.Config{Databases: watch.Databases, Logger: logger})
	m := metrics.NewAdmin(adminName, a.stats)
	m.Watch(public.ln.counts)
	public.prepare(httpapi.NewAdmin(httpapi.AdminConfig{
		Topology: watch, Page: adminui.NewPage(), Forward: http.HandlerFunc(a.pass), Stats: func() any { return a.stats() }, Ready: a.Ready,
		Logger: logger, Metrics: m.Handler(), Traffic: m.Traffic, Closing: a.streams, Hosts: names,
	}), logger)
	a.run(func(ctx context.Context) error {
		watch.Run(ctx)
		return nil
	})
	return a, nil
}

// memberURLsOf returns the URLs of the database nodes that the admin has found. It leaves
// out cache nodes: anybody can claim to be one.
func memberURLsOf(s *adminui.State) (urls []string) {
	for _, m := range s.Members {
		urls = append(urls, m.URL)
	}
	return urls
}

// pass forwards a request and polls the cluster at once if the request may have changed it.
func (a *Admin) pass(w http.ResponseWriter, r *http.Request) {
	a.forward.ServeHTTP(w, r)
	if r.Method != http.MethodGet && (strings.HasPrefix(r.URL.Path, "/members") || r.URL.Path == "/leader") {
		a.watch.Look()
	}
}

func (a *Admin) stats() api.AdminStats {
	now := a.watch.State()
	s := api.AdminStats{
		Name: adminName, URL: a.public.url, Role: api.RoleAdmin, Ready: len(now.Members) > 0,
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

// Close ends event streams, finishes requests in flight as long as ctx allows, and stops.
// It returns the reason if the admin had already stopped by itself.
func (a *Admin) Close(ctx context.Context) error {
	return a.close(func() {
		a.public.drain(ctx)
		a.stop()
		a.running.Wait()
		a.forward.Close()
	})
}

// Ready returns nil once a database node has listed the cluster's nodes.
func (a *Admin) Ready(context.Context) error {
	if len(a.watch.State().Members) == 0 {
		return errors.New("no database node has listed the nodes yet")
	}
	return nil
}
