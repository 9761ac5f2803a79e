package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/hosts"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/internal/shortage"
	"github.com/Focinfi/oncekv/internal/version"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server/metrics"
)

// Peer is an entry of an initial cluster: a name and a peer URL.
type Peer = raftnode.Peer

// A database node that is not a member of its cluster stops with one of these errors.
var (
	// ErrRemoved: the node was removed from the cluster.
	ErrRemoved = raftnode.ErrRemoved
	// ErrEnded: another member forced a new cluster without this node.
	ErrEnded = raftnode.ErrEnded
	// ErrLostData: the data directory is new, but the cluster knows the node's name.
	ErrLostData = raftnode.ErrLostData
	// ErrRefused: the cluster was formed without the node, or refuses to let it join.
	ErrRefused = raftnode.ErrRefused
)

// DefaultDiskReserveBytes is the free space that every voter keeps: room for a few log
// segments and their copies in the store. If a voter has less, the cluster refuses puts.
const DefaultDiskReserveBytes = 256 << 20

// DefaultSnapshotLogBytes is the size of the log between two snapshots. Snapshots are
// cheap, because the state is on disk anyway, and a shorter log means a faster start.
const DefaultSnapshotLogBytes = 16 << 20

// hotBytes is the memory for frequently read values: some 20,000 small ones. Cache nodes
// are for more.
const hotBytes = 16 << 20

// DatabaseConfig describes a database node. Name, DataDir, Listen and
// PeerListen are required.
type DatabaseConfig struct {
	Name    string
	DataDir string
	// Listen and PeerListen are host:port; port 0 chooses a free one. Others connect to
	// Advertise and PeerAdvertise if these are set.
	Listen, PeerListen       string
	Advertise, PeerAdvertise string
	// InitialCluster lists all nodes of a new cluster. Join lists client URLs of a cluster
	// to join, as a voter or, with Learner, as a learner. All three are ignored when
	// DataDir already belongs to a cluster.
	InitialCluster []Peer
	Join           []string
	Learner        bool
	// ForceNewCluster is the confirmation word with which the node makes itself the only
	// member of a new cluster; see raftnode.Config.
	ForceNewCluster string

	// MaxConnections bounds client connections. The default is 16,384, or about half of the
	// files that Descriptors has for this node if that is less.
	MaxConnections int
	// Descriptors is the budget of open files that the nodes of a process share; nil if
	// this node runs alone in its process.
	Descriptors *Descriptors
	// AllowedHosts are further names that the node accepts in the Host header: a name,
	// ".suffix" for a domain and everything below it, or "*" for every name. Package hosts
	// lists the names it accepts anyway.
	AllowedHosts     []string
	MaxValueBytes    int64 // default 1 GiB
	DiskReserveBytes int64 // default DefaultDiskReserveBytes; negative: none
	SnapshotLogBytes int64 // log between two snapshots, default DefaultSnapshotLogBytes
	// ScrubInterval is how often the node reads everything that it stores, to find damage
	// before a get does: at least one second; 0 means DefaultScrubInterval; negative means
	// never.
	ScrubInterval time.Duration

	Logger *slog.Logger
}

// Database is a running database node. All methods may be called from any
// goroutine.
type Database struct {
	cfg       DatabaseConfig
	logger    *slog.Logger
	dir       *dataDir
	public    *listener
	peer      *listener
	store     *kvstore.Store
	node      *raftnode.Node
	db        *kvstore.DB
	registry  *cachetier.Registry
	counters  httpapi.Counters
	metrics   *metrics.Database
	hosts     *hosts.Set
	watch     *watch
	disk      *diskWatch
	scrubber  *scrubber
	started   time.Time
	verified  atomic.Uint64 // this node's disk is known to be intact up to this revision
	judging   atomic.Bool   // the members are being asked about a difference
	verifying atomic.Bool   // this node's disk is being read because of a difference
	disputes  *rate.Limiter // log lines about differences
	comparing sync.Mutex
	compared  map[raftnode.ID]comparison // guarded by comparing

	stopNode  context.CancelFunc // ends raft and everything above it
	stopStore context.CancelFunc // ends the store, which must outlive raft
	running   sync.WaitGroup     // all but the store
	storeDone chan struct{}
	closing   sync.Once
	stopOnce  sync.Once
	streams   chan struct{} // closed to end long streams
	endOnce   sync.Once
	failed    chan error // capacity 1: the first reason to stop
	done      chan struct{}
	err       error // set before done is closed
}

// StartDatabase opens a node's data and listeners and returns; ctx bounds only the call.
// The node then forms, joins or rejoins its cluster by itself, however long that takes.
//
// It returns a *SettingError for a configuration that cannot work, ErrDescriptors if the
// limit of open files is too low, ErrDiskFailed if a write or an fsync in the directory has
// failed before, and another error for a directory that is in use or cannot be trusted, or
// an address that is in use.
func StartDatabase(ctx context.Context, cfg DatabaseConfig) (_ *Database, err error) {
	// A wrong configuration must neither make a directory nor bind a port.
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.DiskReserveBytes = cmp.Or(cfg.DiskReserveBytes, DefaultDiskReserveBytes)
	cfg.ScrubInterval = cmp.Or(cfg.ScrubInterval, DefaultScrubInterval)
	d := &Database{
		logger: cfg.Logger.With("node", cfg.Name), started: time.Now(), disputes: rate.NewLimiter(rate.Every(raftnode.DisputeEvery), 1), compared: map[raftnode.ID]comparison{},
		streams: make(chan struct{}), storeDone: make(chan struct{}), failed: make(chan error, 1), done: make(chan struct{}),
	}
	d.metrics = metrics.NewDatabase(cfg.Name, d.figures)
	defer func() {
		if err != nil {
			d.noteDisk(err)
			d.abandon()
			err = shortage.Explain(err)
		}
	}()
	if d.dir, err = openDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := d.dir.checkFailed(); err != nil {
		return nil, err
	}
	// This comes before anything opens files that another version may have written.
	if _, err := raftnode.Belongs(cfg.DataDir); err != nil {
		return nil, err
	}
	// Check again: now nobody else can change what the directory holds.
	if cfg, err = cfg.checked(); err != nil {
		return nil, err
	}
	d.cfg = cfg
	files, err := cfg.Descriptors.orOwn(NodeCounts{Databases: 1})
	if err != nil {
		return nil, err
	}
	clients, peers := files.database(cfg.MaxConnections, d.logger)
	if d.public, err = listen(cfg.Listen, cfg.Advertise, "clients", placesForAll(clients), d.logger); err != nil {
		return nil, listenError("listen", err)
	}
	if d.peer, err = listen(cfg.PeerListen, cfg.PeerAdvertise, "peers", placesForPeers(peers), d.logger); err != nil {
		return nil, listenError("peer-listen", err)
	}
	if host, _, _ := nodeurl.SplitListen(cfg.PeerListen); cfg.PeerAdvertise == "" && nodeurl.Wildcard(host) {
		d.peer.url = "" // only the cluster knows it
	}
	if d.store, err = kvstore.OpenStoreDir(cfg.DataDir, kvstore.StoreConfig{Logger: d.logger, OnCommit: d.metrics.Committed, Spread: rand.Float64}); err != nil {
		return nil, err
	}
	d.disk = newDiskWatch(d.dir, cfg.DiskReserveBytes, d.logger)
	if d.node, err = raftnode.Open(d.nodeConfig(), d.store); err != nil {
		return nil, err
	}
	if d.hosts, err = hosts.New(hosts.Config{Allowed: cfg.AllowedHosts, URLs: d.ownURLs(), Members: d.memberURLs}); err != nil {
		return nil, err
	}
	d.scrubber = newScrubber(cfg.DataDir, cfg.ScrubInterval, d.scrubBytes, d.store.Scrub, d.logger)
	d.watch = newWatch(d.node, d.compare)
	d.db = kvstore.NewDB(d.store, replicatedLog{d.node}, kvstore.DBConfig{MaxValueBytes: cfg.MaxValueBytes, Reserve: d.reserve, Logger: d.logger})
	d.metrics.Watch(d.public.ln.counts)
	view := clusterView{d}
	d.registry = cachetier.NewRegistry(cachetier.RegistryConfig{DBs: func() []api.DBNode { return view.DBs(context.Background()) }})
	d.run(httpapi.NewDatabase(httpapi.DatabaseConfig{
		DB: d.db, Cluster: view, Registry: d.registry, Logger: d.logger, Counters: &d.counters, MaxValueBytes: cfg.MaxValueBytes,
		Closing: d.streams, SpillDir: cfg.DataDir, // not os.TempDir, which may be memory
		Metrics: d.metrics.Handler(), Traffic: d.metrics.Traffic, Hosts: d.hosts, Hot: cachetier.NewHot(hotBytes),
	}))
	return d, nil
}

func (d *Database) nodeConfig() raftnode.Config {
	cfg := raftnode.Config{
		Dir: d.cfg.DataDir, Name: d.cfg.Name, PeerURL: d.peer.url, ClientURL: d.public.url, Bodies: d.store.Bodies(),
		InitialCluster: d.cfg.InitialCluster, ForceNewCluster: d.cfg.ForceNewCluster,
		SnapshotLogBytes: int(d.cfg.SnapshotLogBytes), Logger: d.logger,
		LacksRoom: func() bool { return d.disk.low() },
		OnFsync:   d.metrics.Fsync, OnPropose: d.metrics.Proposed,
	}
	if len(d.cfg.Join) > 0 {
		cfg.Join = (&joiner{urls: d.cfg.Join, learner: d.cfg.Learner, logger: d.logger}).run
	}
	return cfg
}

// ownURLs returns the URLs with which the node was started.
func (d *Database) ownURLs() []string {
	urls := []string{d.public.url, d.peer.url, listenURL(d.cfg.Listen), listenURL(d.cfg.PeerListen)}
	for _, p := range d.cfg.InitialCluster {
		urls = append(urls, p.URL)
	}
	return append(urls, d.cfg.Join...)
}

// memberURLs returns the current URLs of all members, for both listeners. They include this
// node's: others may know it by a name that it does not advertise yet, or no longer.
func (d *Database) memberURLs() (urls []string) {
	for _, m := range d.node.Status().Members {
		urls = append(urls, m.ClientURL, m.PeerURL)
	}
	return urls
}

// abandon undoes a start that failed half-way.
func (d *Database) abandon() {
	for _, l := range []*listener{d.public, d.peer} {
		if l != nil {
			_ = l.ln.Close()
		}
	}
	if d.store != nil {
		_ = d.store.Close()
	}
	if d.dir != nil {
		_ = d.dir.close()
	}
}

// run starts the goroutines of the node. The first that ends by itself ends the node.
func (d *Database) run(public http.Handler) {
	nodeCtx, stopNode := context.WithCancel(context.Background())
	storeCtx, stopStore := context.WithCancel(context.Background())
	d.stopNode, d.stopStore = stopNode, stopStore
	part := func(name string, f func() error) {
		d.running.Go(func() {
			if err := f(); err != nil {
				d.fail(err)
			}
		})
	}
	d.public.prepare(public, d.logger)
	d.peer.prepare(httpapi.Guard(d.peerHandler(), d.hosts), d.logger)
	part("clients", d.public.serve)
	part("peers", d.peer.serve)
	part("raft", func() error { return forceSetting(d.node.Run(nodeCtx)) })
	part("uploads", func() error { return d.db.Run(nodeCtx) })
	part("watch", func() error { d.watch.run(nodeCtx); return nil })
	part("disk", func() error { d.disk.run(nodeCtx); return nil })
	part("scrub", func() error { return d.scrubber.run(nodeCtx) })
	part("addresses", func() error { d.announce(nodeCtx); return nil })
	go func() {
		defer close(d.storeDone)
		if err := d.store.Run(storeCtx); err != nil {
			d.fail(err)
		}
	}()
	go d.supervise()
}

// fail stops the node because of err. Only the first reason counts.
func (d *Database) fail(err error) {
	d.noteDisk(err)
	select {
	case d.failed <- shortage.Explain(err):
	default:
	}
}

// noteDisk marks the data directory as failed if err is a failed write or fsync. The system
// may show data that the disk does not hold, so no later start may trust the directory.
func (d *Database) noteDisk(err error) {
	if d.dir == nil || !errors.Is(err, ErrDiskFailed) {
		return
	}
	if err := d.dir.markFailed(err); err != nil {
		d.logger.Error("the disk failed, and this could not be noted in the data directory; do not start this node again with its data", "err", err)
	}
}

// supervise waits for a reason to stop, then takes everything down.
func (d *Database) supervise() {
	err := <-d.failed // Close sends nil
	if err != nil {
		d.logger.Error("this node is stopping", "err", err)
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // do not drain: its answers cannot be trusted
		d.takeDown(ctx)
	}
	d.err = err
	close(d.done)
}

// takeDown stops all parts, each after the parts that use it.
func (d *Database) takeDown(ctx context.Context) {
	d.stopOnce.Do(func() {
		d.endStreams()
		d.public.drain(ctx)
		d.stopNode()
		<-d.node.Stopped()
		d.peer.drain(ctx)
		d.running.Wait()
		d.stopStore()
		<-d.storeDone
		if err := d.store.Close(); err != nil && d.err == nil {
			d.logger.Warn("could not close the store", "err", err)
		}
		_ = d.dir.close()
	})
}

// drainTime bounds requests in flight when the node stops.
const drainTime = 2 * time.Second

// endStreams ends answers that have no end of their own.
func (d *Database) endStreams() { d.endOnce.Do(func() { close(d.streams) }) }

// handOverTime is how long a stopping leader waits for another leader.
const handOverTime = time.Second

// Close stops the node: it ends streams, finishes requests in flight as long as ctx allows,
// hands leadership over (within a second) and closes the data. It returns the reason if the
// node had already stopped by itself.
func (d *Database) Close(ctx context.Context) error {
	d.closing.Do(func() {
		// Requests in flight finish while leadership moves: their puts are proposed again
		// to the new leader. Raft and the store need the rest of the time.
		d.endStreams()
		var draining sync.WaitGroup
		draining.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, drainTime)
			defer cancel()
			d.public.drain(ctx)
		})
		hand, cancel := context.WithTimeout(ctx, handOverTime)
		d.node.HandOver(hand)
		cancel()
		draining.Wait()
		d.takeDown(ctx)
		d.fail(nil)
	})
	<-d.done
	return d.err
}

// Done is closed when the node has stopped, by Close or by itself.
func (d *Database) Done() <-chan struct{} { return d.done }

// Err returns why the node stopped by itself; nil before Done is closed and after Close.
func (d *Database) Err() error {
	select {
	case <-d.done:
		return d.err
	default:
		return nil
	}
}

// Name returns the node's name.
func (d *Database) Name() string { return d.cfg.Name }

// URL returns where clients reach the node.
func (d *Database) URL() string { return d.public.url }

// PeerURL returns where other members reach the node; empty while only they know.
func (d *Database) PeerURL() string {
	if d.peer.url != "" {
		return d.peer.url
	}
	st := d.node.Status()
	m, _ := st.Member(st.ID)
	return m.PeerURL
}

// Ready returns nil if a leader is known and the node has caught up with it, else an error
// that says what the node waits for.
func (d *Database) Ready(ctx context.Context) error { return clusterView{d}.Ready(ctx) }

// announce tells the cluster this node's addresses if they have changed since it was added.
func (d *Database) announce(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		st := d.node.Status()
		if m, ok := st.Member(st.ID); ok && st.Leader != 0 {
			peer := cmp.Or(d.peer.url, m.PeerURL)
			if m.PeerURL == peer && m.ClientURL == d.public.url {
				d.doubtPeerURL(peer)
				return
			}
			m.PeerURL, m.ClientURL = peer, d.public.url
			if _, _, err := d.node.AddMember(ctx, m); err != nil {
				d.logger.Warn("could not tell the cluster this node's new addresses; trying again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// doubtPeerURL warns if the cluster knows a peer URL with another port than this node's:
// unless something forwards that port, no member gets through.
func (d *Database) doubtPeerURL(url string) {
	_, port, _ := net.SplitHostPort(d.peer.ln.Addr().String())
	if d.peer.url == "" && !strings.HasSuffix(url, ":"+port) {
		d.logger.Warn("the other members use a peer URL with another port than this node listens on; unless something forwards that port, set --peer-advertise", "peer_url", url, "peer_listen", d.cfg.PeerListen)
	}
}

// stats gathers this node's statistics.
func (d *Database) stats() api.Stats {
	st, s, v := d.node.Status(), d.store.Stats(), d.store.Bodies().Stats()
	out := api.Stats{
		Name: d.cfg.Name, ID: st.ID.String(), Role: string(st.Role), Leader: st.LeaderName(), Term: st.Term,
		Ready:       st.Leader != 0 && !st.Lacks && st.Applied >= st.Commit,
		CommitIndex: st.Commit, AppliedIndex: st.Applied, DurableIndex: s.DurableIndex,
		Revision: uint64(s.Revision), Digest: s.Digest.String(),
		History: httpapi.HistoryDocument(d.db.History()), Level: api.Levels{Store: st.Level, Program: st.Known},
		Keys: uint64(s.Keys), ValueBytes: s.ValueBytes, HistoryBytes: s.HistoryBytes, IndexBytes: s.IndexBytes,
		OverlayBytes: s.OverlayBytes, PendingBytes: s.PendingBytes, OpenUploads: s.OpenUploads,
		Index: api.IndexRuns{
			Runs: s.Index.Runs, Keys: s.Index.Keys, FilterBitsPerKey: s.Index.FilterBits,
			MergedBytes: s.Index.MergedBytes, FalsePositives: s.Index.FalsePositives, Pauses: s.Index.Pauses,
		},
		Values: api.ValueFiles{Bodies: v.Bodies, LiveBytes: v.LiveBytes, DeadBytes: v.DeadBytes, ReclaimedBytes: v.ReclaimedBytes, Segments: v.Segments},
		Scrub:  d.scrubber.status(),
		Puts:   d.counters.Puts.Load(), Created: d.counters.Created.Load(), Unchanged: d.counters.Unchanged.Load(), Conflicts: d.counters.Conflicts.Load(),
		Gets: d.counters.Gets.Load(), Absences: d.counters.Absences.Load(), Errors: d.counters.Errors.Load(),
		DiskFreeBytes: d.disk.free.Load(), DiskLow: d.disk.low(),
		Version: version.String(), UptimeSeconds: time.Since(d.started).Seconds(),
	}
	// A revision that replicas soon share and whose digest the store keeps.
	if at := s.Revision / kvstore.CheckpointRevisions * kvstore.CheckpointRevisions; at > 0 {
		if digest, err := d.store.DigestAt(at); err == nil {
			out.Checkpoints = []api.Checkpoint{{Revision: uint64(at), Digest: digest.String()}}
		}
	}
	return out
}

// scrubBytes estimates what a scrub reads: the files, and each body once.
func (d *Database) scrubBytes() int64 {
	s, v := d.store.Stats(), d.store.Bodies().Stats()
	return s.HistoryBytes + s.IndexBytes + v.LiveBytes + v.DeadBytes
}

// figures gathers the numbers for the metrics.
func (d *Database) figures() metrics.DatabaseFigures {
	scrub := d.scrubber.status()
	last := time.Time{}
	if scrub.LastEnd != nil {
		last = *scrub.LastEnd
	}
	return metrics.DatabaseFigures{
		Raft: d.node.Status(), RaftMore: d.node.Figures(), Store: d.store.Stats(),
		Values: d.store.Bodies().Stats(), Scrub: metrics.Scrub{Fraction: scrub.Fraction, LastEnd: last},
		Requests: metrics.Requests{
			Created: d.counters.Created.Load(), Unchanged: d.counters.Unchanged.Load(), Conflicts: d.counters.Conflicts.Load(),
			Gets: d.counters.Gets.Load(), Absences: d.counters.Absences.Load(), Errors: d.counters.Errors.Load(),
		},
		Disk: metrics.Disk{FreeBytes: d.disk.free.Load(), ReserveBytes: max(0, d.cfg.DiskReserveBytes), Low: d.disk.low()},
	}
}
