package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/server"
)

// devFlags are the flags of the local cluster.
type devFlags struct {
	dataDir    string
	portOffset int
	allowed    []string // hosts
	reset      bool
	scrub      scrubFlags
	log        logFlags
}

func (a *app) devCommand() *cobra.Command {
	d := &devFlags{}
	p := portsAt(0)
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole system in one process",
		Long: fmt.Sprintf(`Run three database nodes, three cache nodes and the admin page in one process, on
loopback, to try things out. The data is kept for the next start; --reset deletes it
first, after asking.

A database node that was removed, or whose data directory was deleted, joins again
by itself with an empty directory, once the other nodes hold everything.

Ports: database nodes %d to %d (and %d to %d for one another), cache nodes
%d to %d, admin %d. --port-offset N uses separate data and adds N to all ports,
with two exceptions: the peer ports then start at %d+N, and with N from %d to %d
the database nodes start at %d+N. Existing data keeps its peer ports.
Local clusters whose offsets are multiples of 100 can run side by side.`,
			p.database, p.database+devNodes-1, p.peer, p.peer+devNodes-1, p.cache, p.cache+devNodes-1, p.admin,
			devPeerPortShifted, devPeerPort-devDatabasePort-devNodes+1, devPeerPort-devDatabasePort+devNodes-1, devDatabasePortAside),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.dev(cmd.Context(), d) },
	}
	f := cmd.Flags()
	f.StringVar(&d.dataDir, "data-dir", "", "directory for all data (default ./data, with --port-offset N ./data/offset-N)")
	f.IntVar(&d.portOffset, "port-offset", 0, "added to all ports, to run beside another local cluster; see above")
	registerAllowedHosts(f, &d.allowed)
	f.BoolVar(&d.reset, "reset", false, "delete all data of the local cluster first; asks before deleting")
	a.yesFlag(f, "--reset")
	d.scrub.register(f)
	d.log.register(f, slog.LevelWarn)
	return cmd
}

func (a *app) dev(ctx context.Context, d *devFlags) error {
	if d.portOffset < 0 || d.portOffset > devOffsetMax {
		return usageErrorf("--port-offset %d gives invalid ports; use 0 to %d", d.portOffset, devOffsetMax)
	}
	if err := server.CheckAllowedHosts(d.allowed); err != nil {
		return err
	}
	if _, err := d.scrub.value(); err != nil {
		return err
	}
	if d.reset {
		if err := a.resetDev(ctx, d); err != nil {
			return err
		}
	}
	system, err := a.startDev(ctx, d)
	if err != nil {
		return startError(ctx, "the local cluster", err)
	}
	return a.runDev(ctx, system)
}

// resetDev deletes the local cluster's data after confirmation.
func (a *app) resetDev(ctx context.Context, d *devFlags) error {
	data := devData{d.directory()}
	if err := a.confirm(ctx, fmt.Sprintf("--reset deletes all keys of the local cluster in %s.", shown(data.path)), "reset"); err != nil {
		return err
	}
	if err := data.reset(); err != nil {
		return fmt.Errorf("reset the local cluster: %w", err)
	}
	return nil
}

// devSystem is a running local cluster.
type devSystem struct {
	app     *app
	data    devData
	offset  int
	allowed []string      // hosts
	scrub   time.Duration // for server.DatabaseConfig
	files   *server.Descriptors
	asks    *http.Client
	members []*devMember
	tier    []namedNode // the cache nodes, then the admin

	healing sync.Mutex              // held while a member joins again
	end     context.CancelCauseFunc // ends the local cluster
	talking sync.Mutex              // held while a message is written
}

// databaseNode begins the name of a database node in messages.
const databaseNode = "database node "

// startDev starts all nodes or none, with one exception: a database node with unusable data
// does not keep the others from running.
func (a *app) startDev(ctx context.Context, d *devFlags) (*devSystem, error) {
	files, err := server.NewDescriptors(server.NodeCounts{Databases: devNodes, Caches: devNodes, Admins: 1})
	if err != nil {
		return nil, err
	}
	s := &devSystem{app: a, data: devData{d.directory()}, offset: d.portOffset, allowed: d.allowed, files: files, asks: nodehttp.NewClient(nodehttp.Options{})}
	if s.scrub, err = d.scrub.value(); err != nil {
		return nil, err
	}
	ports := portsAt(d.portOffset)
	kept, err := s.data.peerPort()
	if err != nil {
		return nil, err
	}
	ports.keep(kept)
	if err := ports.free(d); err != nil {
		return nil, err
	}
	if err := s.data.mark(ports.peer); err != nil {
		return nil, err
	}
	logger := a.logger(d.log)
	s.plan(ports, logger)
	if err := s.startMembers(ctx); err != nil {
		return nil, s.abandon(err)
	}
	if err := s.startTier(ctx, ports, logger); err != nil {
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

// resetLine returns the command that starts over with the flags of this one.
func (s *devSystem) resetLine() string {
	line := "oncekv dev --reset --data-dir " + strconv.Quote(s.data.path)
	if s.offset != 0 {
		line += fmt.Sprintf(" --port-offset %d", s.offset)
	}
	return line
}

// plan decides the members.
func (s *devSystem) plan(ports devPorts, logger *slog.Logger) {
	peers := ports.peers()
	for i, p := range peers {
		cfg := server.DatabaseConfig{
			Name: p.Name, DataDir: s.data.member(p.Name), Listen: loopback(ports.database + i),
			PeerListen: loopback(ports.peer + i), PeerAdvertise: p.URL, InitialCluster: peers, AllowedHosts: s.allowed, ScrubInterval: s.scrub, Descriptors: s.files, Logger: logger,
		}
		s.members = append(s.members, &devMember{name: p.Name, config: cfg, url: "http://" + cfg.Listen, peers: p.URL})
	}
}

// startMembers starts the database nodes. A problem with one node's data is reported by its
// keeper; a problem with the machine ends the start.
func (s *devSystem) startMembers(ctx context.Context) error {
	for _, m := range s.members {
		err := m.start(ctx, nil)
		switch {
		case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, server.ErrInUse), ctx.Err() != nil:
			return fmt.Errorf("%s%s: %w", databaseNode, m.name, errors.Join(err, ctx.Err()))
		case err != nil:
			m.note(err.Error())
		}
	}
	return nil
}

func (s *devSystem) startTier(ctx context.Context, ports devPorts, logger *slog.Logger) error {
	var seeds []string
	for _, m := range s.members {
		seeds = append(seeds, m.url)
	}
	for i := range devNodes {
		name := fmt.Sprintf("c%d", i+1)
		cache, err := server.StartCache(ctx, server.CacheConfig{
			Name: name, Listen: loopback(ports.cache + i), Nodes: seeds, CacheBytes: 64 << 20,
			AllowedHosts: s.allowed, Descriptors: s.files, Logger: logger,
		})
		if err != nil {
			return fmt.Errorf("cache node %s: %w", name, err)
		}
		s.tier = append(s.tier, namedNode{"cache node " + name, cache})
	}
	admin, err := server.StartAdmin(ctx, server.AdminConfig{Listen: loopback(ports.admin), Nodes: seeds, AllowedHosts: s.allowed, Descriptors: s.files, Logger: logger})
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	s.tier = append(s.tier, namedNode{"admin", admin})
	return nil
}

// abandon closes what was started before err.
func (s *devSystem) abandon(err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	closeAll(ctx, s.running())
	return err
}

// running lists the running nodes.
func (s *devSystem) running() []namedNode {
	var nodes []namedNode
	for _, m := range s.members {
		if db := m.running(); db != nil {
			nodes = append(nodes, namedNode{databaseNode + m.name, db})
		}
	}
	return append(nodes, s.tier...)
}

// runDev looks after a local cluster until ctx ends, then closes it. It returns an error if no
// database node is left, or another node stops by itself.
func (a *app) runDev(ctx context.Context, s *devSystem) error {
	looking, end := context.WithCancelCause(ctx)
	defer end(nil)
	s.end = end
	var parts sync.WaitGroup
	for _, m := range s.members {
		parts.Go(func() { s.keep(looking, m) })
	}
	parts.Go(func() { s.announce(looking, a.stdout) })
	err := firstStopped(looking, s.tier)
	if cause := context.Cause(looking); ctx.Err() == nil && looking.Err() != nil {
		err = cause
	}
	end(nil)
	parts.Wait()
	s.asks.CloseIdleConnections()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, closeAll(closing, s.running()))
}

// say tells the person at the terminal what happened to the cluster.
func (s *devSystem) say(format string, args ...any) {
	s.talking.Lock()
	defer s.talking.Unlock()
	fmt.Fprintf(s.app.stderr, format+"\n", args...)
}

// endIfNoneRuns ends the local cluster if no database node is left.
func (s *devSystem) endIfNoneRuns(err error) {
	s.healing.Lock()
	defer s.healing.Unlock()
	for _, m := range s.members {
		if m.running() != nil {
			return
		}
	}
	s.end(fmt.Errorf("no database node is running: %w", err))
}
