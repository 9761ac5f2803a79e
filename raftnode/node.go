package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// Node is one member of a replicated cluster. Open makes it, Run runs it. All other methods
// may be called from any goroutine in between.
type Node struct {
	cfg          Config
	sm           StateMachine
	self         identity
	logger       *slog.Logger
	client       *http.Client
	changeClient *http.Client // for askLeader: keeps no connection idle
	pushClient   *http.Client // for pushTo
	inbox        *inbox
	waiters      *waiters
	progress     *progress
	applier      *applier
	dropped      *droppedMessages
	digest       historyDigest
	disputes     *rate.Limiter // of log lines about a history that is not this node's
	budget       *bodyBudget   // of the bodies of requests to the peer port
	pushes       *pushes       // of what Distribute is given
	arrivals     *arrivals
	bodyIdle     time.Duration
	stopped      chan struct{} // closed when Run returns

	status   atomic.Pointer[Status]
	commit   atomic.Uint64
	leads    atomic.Uint64 // see Figures
	removed  atomic.Pointer[map[ID]bool]
	forced   atomic.Pointer[[]Forcing]
	identity atomic.Pointer[identity]     // what the peer listener tells others
	raftHTTP atomic.Pointer[http.Handler] // nil until the transport runs

	// owned by Run:
	saveSelf  func(identity) error // makes it durable
	forcing   *Forcing             // what is to be done once the log is open
	disk      disk
	transport transport
	core      *core
	pulls     chan pullResult
	pulling   bool
	installed uint64 // index of the last snapshot handed to the applier
	seen      statusSource
	asking    bool          // whether this cluster was ended
	endings   chan *Forcing // the answers; nil: it was not
	shortTold time.Time     // when it was last said that the system is short of something
	released  chan struct{} // made when the node hears that it was removed; closed when it may stop
}

// Open prepares a node on its data directory, without any network. It returns ErrBadMember
// for a configuration that cannot work, and another error for a directory whose files do
// not belong together or cannot be trusted.
func Open(cfg Config, sm StateMachine) (*Node, error) {
	cfg.setDefaults()
	id, err := openIdentity(&cfg, sm)
	if err != nil {
		return nil, err
	}
	self := Member{ID: id.ID, Name: cfg.Name, PeerURL: cfg.PeerURL, ClientURL: cfg.ClientURL}
	if cfg.PeerURL == "" && id.ClusterID != 0 {
		self.PeerURL = cfg.ClientURL // for the check only
	}
	if self, err = self.Checked(); err != nil {
		return nil, err
	}
	if cfg.ClientURL = self.ClientURL; cfg.PeerURL != "" {
		cfg.PeerURL = self.PeerURL
	}
	if id.ClusterID == 0 && cfg.Join == nil {
		if cfg.InitialCluster, err = checkInitial(cfg); err != nil {
			return nil, err
		}
	}
	n := &Node{
		cfg: cfg, sm: sm, self: id, logger: cfg.Logger,
		client:       nodehttp.NewClient(nodehttp.Options{AnswerTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second}),
		changeClient: nodehttp.NewClient(nodehttp.Options{AnswerTimeout: 10 * time.Second, IdlePerHost: -1}),
		pushClient:   nodehttp.NewClient(nodehttp.Options{AnswerTimeout: 10 * time.Second, IdleTimeout: pushIdle, IdlePerHost: pushRequests}),
		inbox:        newInbox(),
		waiters:      newWaiters(random64()),
		progress:     &progress{},
		dropped:      newDroppedMessages(cfg.Logger),
		disputes:     rate.NewLimiter(rate.Every(DisputeEvery), 1),
		budget:       newBodyBudget(cfg.QueueBytes),
		bodyIdle:     peerBodyIdle,
		stopped:      make(chan struct{}),
		pulls:        make(chan pullResult, 1),
		endings:      make(chan *Forcing, 1),
		saveSelf:     func(id identity) error { return id.save(cfg.Dir, cfg.sync) },
	}
	n.applier = newApplier(sm, n.waiters, n.progress)
	n.pushes = newPushes(n.pushTo, n.logger)
	n.arrivals = newArrivals(references{cfg.Bodies, sm.Body}, cfg.QueueBytes, n.fetchMissing, func(m raftpb.Message) { n.inbox.addMessage(m, cfg.QueueBytes) }, n.logger)
	n.identity.Store(&id)
	n.removed.Store(&map[ID]bool{})
	n.forced.Store(&id.Forced)
	n.status.Store(&Status{ID: id.ID, Name: id.Name, ClusterID: id.ClusterID, Role: RoleFollower, Known: cfg.Level})
	return n, nil
}

// Belongs reports whether a data directory belongs to a member of a cluster.
// Then InitialCluster and Join count for nothing.
func Belongs(dir string) (bool, error) {
	id, err := loadIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return id.ClusterID != 0, err
}

// takeSnapshot makes a durable state the start of the log.
func (n *Node) takeSnapshot(log *memlog, d durableState) error {
	s := d.snapshot()
	if err := n.disk.saveSnapshot(s); err != nil {
		return err
	}
	return log.snapshotted(s, n.cfg.KeepLogBytes)
}

// statusSource is what the last published Status was made from.
type statusSource struct {
	term, lead uint64
	state      raft.StateType
	members    int // length and changes are told by the index of the last change
	index      uint64
	lacks      bool
}

// receive takes a message from the transport. Messages that refer to bodies which are not
// here wait outside of the loop. When too much waits to be applied, messages with entries
// are dropped: the sender slows down and sends them again.
func (n *Node) receive(m raftpb.Message) error {
	if err := checkHeader(uint64(n.self.ID), &m); err != nil {
		n.dropped.add(&m, err)
		return err
	}
	limit := n.cfg.QueueBytes
	if len(m.Entries) > 0 && n.applier.backlog() > limit {
		return nil
	}
	if m.Type == raftpb.MsgProp && !n.Leads() || !n.arrivals.takes(&m, n.commit.Load()) {
		n.inbox.addMessage(m, limit)
	}
	return nil
}

func (n *Node) isRemoved(id ID) bool { return (*n.removed.Load())[id] }
func (n *Node) lost(id ID)           { n.inbox.addLost(uint64(id)) }

// ID returns the node's raft ID.
func (n *Node) ID() ID { return n.self.ID }

// Status returns what the node knows now.
func (n *Node) Status() Status {
	st := *n.status.Load()
	st.Applied = n.progress.index()
	st.Commit = max(n.commit.Load(), st.Applied)
	return st
}

// Leads reports whether this node leads, as far as it knows now.
func (n *Node) Leads() bool { return n.status.Load().Role == RoleLeader }

// Figures returns the node's counts now.
func (n *Node) Figures() Figures {
	return Figures{LeaderChanges: n.leads.Load(), PendingProposals: n.waiters.count(), ApplyQueueBytes: n.applier.backlog(), DroppedMessages: n.dropped.count.Load()}
}

// Stopped is closed when Run has returned.
func (n *Node) Stopped() <-chan struct{} { return n.stopped }

// ProposeMany replicates commands, with one waiter and one wake-up. It calls each for every
// command, on the caller's goroutine, with what the state machine answered when it applied
// the command on this node, and returns when all have their answers. Commands are applied
// in their order, unless some are proposed again or fail. The same command may be applied
// more than once: it is proposed again when an answer is late. Errors:
// ErrCommandTooLarge, ErrOverloaded, ErrUnavailable, ErrLevel and ErrStopped mean that
// nothing happened; ErrOutcomeUnknown that it may have.
func (n *Node) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	if len(commands) == 0 {
		return
	}
	began := time.Now()
	g, err := n.propose(ctx, commands)
	took := time.Since(began)
	for i := range commands {
		out := outcome{err: err}
		if err == nil {
			out = g.outcomes[i]
		}
		if n.cfg.OnPropose != nil {
			n.cfg.OnPropose(took, out.err)
		}
		each(i, out.result, out.err)
	}
}

// propose returns when every command has its outcome. An error is that of all.
func (n *Node) propose(ctx context.Context, commands [][]byte) (*group, error) {
	for _, data := range commands {
		if len(data) > commandBytesMax {
			return nil, fmt.Errorf("%w: %d of %d bytes", ErrCommandTooLarge, len(data), commandBytesMax)
		}
	}
	if n.applier.backlog() > n.cfg.QueueBytes {
		return nil, ErrOverloaded
	}
	g := n.waiters.add(commands)
	if !n.inbox.addCommands(n.waiters.origin, g, n.cfg.QueueBytes) {
		n.waiters.giveUp(g, ErrOverloaded, ErrOverloaded)
		select {
		case <-n.stopped:
			return nil, ErrStopped
		default:
			return nil, ErrOverloaded
		}
	}
	timeout := time.NewTimer(n.cfg.NoLeaderTimeout)
	defer timeout.Stop()
	extended := false
	for {
		select {
		case <-g.done:
			return g, nil
		case <-ctx.Done():
			cause := context.Cause(ctx)
			n.waiters.giveUp(g, fmt.Errorf("%w (%w)", ErrUnavailable, cause), fmt.Errorf("%w (%w)", ErrOutcomeUnknown, cause))
			return g, nil
		case <-timeout.C:
			if extended {
				n.waiters.giveUp(g, ErrUnavailable, ErrOutcomeUnknown)
				return g, nil
			}
			n.waiters.giveUp(g, ErrUnavailable, nil)
			extended = true
			timeout.Reset(n.cfg.ProposeTimeout - n.cfg.NoLeaderTimeout)
		}
	}
}

// ReadIndex returns nil once this node has applied everything that was
// acknowledged anywhere before the call. It returns ErrUnavailable when no
// leader confirms that in time, or ErrStopped.
func (n *Node) ReadIndex(ctx context.Context) error {
	r := newRead()
	if !n.inbox.addRead(r) {
		return ErrStopped
	}
	defer r.left.Store(true)
	timeout := time.NewTimer(n.cfg.NoLeaderTimeout)
	defer timeout.Stop()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", ErrUnavailable, context.Cause(ctx))
	case <-timeout.C:
		return ErrUnavailable
	}
}

// peersAtStart are the members to talk to until others are known. The table of a node that
// has just joined is empty; it uses what it was told. A node that has just forced a new
// cluster is alone, whatever its table says until that is applied.
func (n *Node) peersAtStart() []Member {
	if n.core.forcedAt > n.progress.index() {
		return nil
	}
	if ms := n.core.members.list(); len(ms) > 0 {
		return ms
	}
	return n.self.Peers
}

// publish makes the loop's view visible to everybody.
func (n *Node) publish() {
	c := n.core
	n.commit.Store(c.commit)
	now := statusSource{c.term, c.lead, c.state, len(c.members.members), c.membersAt, c.lacks()}
	if now == n.seen {
		return
	}
	if c.lead != n.seen.lead {
		n.logger.Info("leader changed", "leader", c.members.members[ID(c.lead)].Name, "term", c.term)
		if c.lead != raft.None {
			n.leads.Add(1)
		}
	}
	n.seen = now
	removed := maps.Clone(c.members.removed)
	n.removed.Store(&removed)
	if forced := c.members.forced; len(forced) >= len(n.self.Forced) { // until the entry is applied the identity knows more
		n.forced.Store(&forced)
	}
	st := &Status{ID: n.self.ID, Name: n.self.Name, ClusterID: n.self.ClusterID, Role: RoleFollower, Leader: ID(c.lead), Lacks: now.lacks, Term: c.term, Members: c.members.list(), Level: c.members.level, Known: c.gate.known, changed: c.members.changed}
	switch {
	case c.isLeader():
		st.Role = RoleLeader
	case c.members.members[n.self.ID].Learner || len(st.Members) == 0:
		st.Role = RoleLearner
	}
	n.status.Store(st)
}

// pullResult is how the pull of an offered snapshot ended.
type pullResult struct {
	m   raftpb.Message
	err error
}

// knownMembers are those of the cluster as this node knows it, or as it was told when
// it joined.
func (n *Node) knownMembers() []Member {
	if members := n.status.Load().Members; len(members) > 0 {
		return members
	}
	return n.identity.Load().Peers
}
