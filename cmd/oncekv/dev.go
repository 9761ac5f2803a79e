package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/server"
)

// Ports of the local cluster: the first of three each, and the admin's.
const (
	devDatabasePort = 11000
	devPeerPort     = 12000
	devCachePort    = 5551
	devAdminPort    = 5546
	devNodes        = 3
	devOffsetMax    = 65535 - devPeerPort - devNodes
)

// devFlags are the command line of the local cluster.
type devFlags struct {
	dataDir    string
	portOffset int
	allowed    []string // hosts
	log        logFlags
}

func (a *app) devCommand() *cobra.Command {
	d := &devFlags{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole system in one process",
		Long: fmt.Sprintf(`Run three database nodes, three cache nodes and the admin page in one process, on
loopback, to try things out. The data stays for the next start.

Ports: database nodes %d to %d (and %d to %d among themselves), cache nodes
%d to %d, admin %d. --port-offset shifts all of them, and has data of its own.`,
			devDatabasePort, devDatabasePort+devNodes-1, devPeerPort, devPeerPort+devNodes-1, devCachePort, devCachePort+devNodes-1, devAdminPort),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd.Context(), d) },
	}
	f := cmd.Flags()
	f.StringVar(&d.dataDir, "data-dir", "", "directory of all data (default ./data, with --port-offset N ./data/offset-N)")
	f.IntVar(&d.portOffset, "port-offset", 0, "added to all ports, to run beside another one")
	registerAllowedHosts(f, &d.allowed)
	d.log.register(f, slog.LevelWarn)
	return cmd
}

func (a *app) dev(ctx context.Context, d *devFlags) error {
	if d.portOffset < 0 || d.portOffset > devOffsetMax {
		return usageErrorf("--port-offset %d does not leave valid ports; use 0 to %d", d.portOffset, devOffsetMax)
	}
	system, err := a.startDev(ctx, d)
	if err != nil {
		return startError(ctx, "the local cluster", err)
	}
	announced := make(chan error, 1)
	ready, cancel := context.WithCancel(ctx)
	go func() {
		err := waitReady(ready, system.urls())
		if err == nil {
			system.announce(a.stdout)
		}
		announced <- err
	}()
	err = a.supervise(ctx, system.nodes...)
	cancel()
	<-announced
	return err
}

// devSystem is a running local cluster.
type devSystem struct {
	nodes   []namedNode // databases, caches, admin
	peers   []server.Peer
	allowed []string
	dataDir string
	files   *server.Descriptors
}

// startDev starts all nodes, or none.
func (a *app) startDev(ctx context.Context, d *devFlags) (*devSystem, error) {
	files, err := server.NewDescriptors(server.NodeCounts{Databases: devNodes, Caches: devNodes, Admins: 1})
	if err != nil {
		return nil, err
	}
	s := &devSystem{peers: d.peers(), allowed: d.allowed, dataDir: d.directory(), files: files}
	logger := a.logger(d.log)
	for i := range devNodes {
		if err := s.startDatabase(ctx, i, d.portOffset, logger); err != nil {
			return nil, s.abandon(err)
		}
	}
	for i := range devNodes {
		if err := s.startCache(ctx, i, d.portOffset, logger); err != nil {
			return nil, s.abandon(err)
		}
	}
	if err := s.startAdmin(ctx, d.portOffset, logger); err != nil {
		return nil, s.abandon(err)
	}
	return s, nil
}

func (d *devFlags) directory() string {
	switch {
	case d.dataDir != "":
		return d.dataDir
	case d.portOffset != 0: // the nodes remember one another's ports
		return filepath.Join("data", fmt.Sprintf("offset-%d", d.portOffset))
	}
	return "data"
}

func (d *devFlags) peers() []server.Peer {
	var peers []server.Peer
	for i := range devNodes {
		peers = append(peers, server.Peer{Name: fmt.Sprintf("n%d", i+1), URL: "http://" + loopback(devPeerPort+d.portOffset+i)})
	}
	return peers
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func (s *devSystem) startDatabase(ctx context.Context, i, offset int, logger *slog.Logger) error {
	name := s.peers[i].Name
	db, err := server.StartDatabase(ctx, server.DatabaseConfig{
		Name:           name,
		DataDir:        filepath.Join(s.dataDir, name),
		Listen:         loopback(devDatabasePort + offset + i),
		PeerListen:     loopback(devPeerPort + offset + i),
		PeerAdvertise:  s.peers[i].URL,
		InitialCluster: s.peers,
		Descriptors:    s.files,
		AllowedHosts:   s.allowed,
		Logger:         logger,
	})
	if err != nil {
		return fmt.Errorf("database node %s: %w", name, err)
	}
	s.nodes = append(s.nodes, namedNode{"database node " + name, db})
	return nil
}

func (s *devSystem) startCache(ctx context.Context, i, offset int, logger *slog.Logger) error {
	name := fmt.Sprintf("c%d", i+1)
	cache, err := server.StartCache(ctx, server.CacheConfig{
		Name:         name,
		Listen:       loopback(devCachePort + offset + i),
		Nodes:        s.urls()[:devNodes],
		CacheBytes:   64 << 20,
		AllowedHosts: s.allowed,
		Descriptors:  s.files,
		Logger:       logger,
	})
	if err != nil {
		return fmt.Errorf("cache node %s: %w", name, err)
	}
	s.nodes = append(s.nodes, namedNode{"cache node " + name, cache})
	return nil
}

func (s *devSystem) startAdmin(ctx context.Context, offset int, logger *slog.Logger) error {
	admin, err := server.StartAdmin(ctx, server.AdminConfig{Listen: loopback(devAdminPort + offset), Nodes: s.urls()[:devNodes], AllowedHosts: s.allowed, Descriptors: s.files, Logger: logger})
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	s.nodes = append(s.nodes, namedNode{"admin", admin})
	return nil
}

// abandon closes what was started before err.
func (s *devSystem) abandon(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	closeAll(ctx, s.nodes)
	return fmt.Errorf("%w (is another one running? --port-offset runs one beside it)", err)
}

func (s *devSystem) urls() []string {
	var urls []string
	for _, n := range s.nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// announce says where everything listens and what to try.
func (s *devSystem) announce(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, n := range s.nodes {
		fmt.Fprintf(t, "%s\t%s", n.name, n.URL())
		if i < len(s.peers) {
			fmt.Fprintf(t, "\tpeers %s", s.peers[i].URL)
		}
		fmt.Fprintln(t)
	}
	t.Flush()
	urls := s.urls()
	fmt.Fprintf(w, `data in %s, Ctrl-C stops

In a second terminal, set a key through a database node, then read it from caches:

  curl -XPOST %s/key -d '{"key":"foo","value":"bar"}'
  curl -XGET %s/key/foo
  curl -XGET %s/key/foo

All of it in a browser: %s
`, s.dataDir, urls[0], urls[devNodes], urls[devNodes+1], urls[len(urls)-1])
}

// waitReady returns nil when every node says that it is ready.
func waitReady(ctx context.Context, urls []string) error {
	const pollEvery = 50 * time.Millisecond
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	hc := nodehttp.NewClient(nodehttp.Options{})
	defer hc.CloseIdleConnections()
	for _, u := range urls {
		for !isReady(ctx, hc, u) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func isReady(ctx context.Context, hc *http.Client, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := hc.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
