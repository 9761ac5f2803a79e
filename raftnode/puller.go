package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"
)

// The data of a snapshot is brought here before raft hears of the snapshot. One pull at
// a time: a newer snapshot that arrives meanwhile is offered again by the leader and
// finds most of its data staged already.

const (
	// pullTries bound the pull of a snapshot that was offered, which may be an invention.
	// The leader offers its own again, and what was staged stays.
	pullTries = 10
	// pullFailedEvery is how often one pull logs that it has failed and goes on.
	pullFailedEvery = 10 * time.Second
	// disputePause is how long a pull waits after a source that has another history.
	disputePause = 5 * time.Second
)

// errNoSource: nobody else could be asked.
var errNoSource = errors.New("no other member is known that could send the data")

// wantsPull reports whether a snapshot's data is to be pulled now: there is one staging
// area. A snapshot that is left out is offered again.
func (n *Node) wantsPull(m raftpb.Message) bool {
	switch {
	case n.pulling:
		return false
	case m.Snapshot.Metadata.Index <= n.core.commit:
		n.core.staged(m) // nothing to pull; raft answers that it is known
		return false
	case n.progress.index() < n.installed:
		return false
	}
	n.pulling = true
	return true
}

// startPull begins to pull the data of a snapshot that was offered.
func (n *Node) startPull(ctx context.Context, m raftpb.Message, fail context.CancelCauseFunc, wg *sync.WaitGroup) {
	index, sender := m.Snapshot.Metadata.Index, ID(m.From)
	wg.Go(func() {
		n.logger.Info("pulling the data of a snapshot", "index", index, "from", sender.String())
		err := n.checkSnapshotLevel(ctx, m.Snapshot)
		if err == nil {
			err = n.pull(ctx, m.Snapshot, sender, n.knownMembers)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errDisk), errors.Is(err, ErrDiverged), isLater(err):
			fail(fmt.Errorf("pull snapshot %d: %w", index, err))
			return
		case errors.As(err, new(*DisputeError)):
			if n.disputes.Allow() { // offered again every few seconds
				n.logger.Error("this node is behind, but does not pull from a member with another history", "index", index, "from", sender.String(), "err", err)
			}
		case err != nil:
			n.logger.Error("gave up pulling a snapshot; the leader will offer its own again", "index", index, "from", sender.String(), "err", err)
		}
		n.pulls <- pullResult{m, err} // capacity 1, one pull at a time
	})
}

// pull stages the data of a snapshot from any of the members, the one that has offered
// it first, and goes round until it succeeds, gives up, or ctx ends. Without a sender
// (0) it does not give up. ErrDiverged means that most voters have another history than
// this node. A snapshot of somebody with another history is given up at once.
func (n *Node) pull(ctx context.Context, s raftpb.Snapshot, sender ID, members func() []Member) error {
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	cluster, index := n.identity.Load().ClusterID, s.Metadata.Index
	say := rate.NewLimiter(rate.Every(pullFailedEvery), 1)
	for attempt := 1; ; attempt++ {
		known := members()
		sources := n.sources(known, sender)
		if len(sources) == 0 {
			return errNoSource
		}
		source := sources[(attempt-1)%len(sources)]
		err := n.checkSource(ctx, known, source)
		if err == nil {
			err = n.sm.Stage(ctx, d.state, func(ctx context.Context, query string) (io.ReadCloser, error) {
				return fetchIdle(ctx, n.client, cluster, fmt.Sprintf("%s%s?index=%d&%s", source.PeerURL, snapshotPath, index, query))
			}, fetchBodies(n.client, cluster, source.PeerURL))
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		disputed := errors.As(err, new(*DisputeError))
		if errors.Is(err, errDisk) || errors.Is(err, ErrDiverged) || sender != 0 && attempt == pullTries || disputed && source.ID == sender {
			return err
		}
		if say.Allow() {
			n.logger.Warn("pulling a snapshot failed, trying again", "index", index, "from", source.Name, "err", err)
		}
		pause := time.Duration(200+rand.IntN(300)) * time.Millisecond
		if disputed && sender == 0 {
			pause = disputePause
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// checkSnapshotLevel refuses an offered snapshot whose level this program does not know.
// The offer may be forged: it is a *level.LaterError, which stops the node, only if a known
// member says the same where it is reached.
func (n *Node) checkSnapshotLevel(ctx context.Context, s raftpb.Snapshot) error {
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	if d.members.level <= n.cfg.Level {
		return nil
	}
	cluster, sources := n.identity.Load().ClusterID, n.sources(n.knownMembers(), 0)
	for i, a := range n.introductions(ctx, sources, "") {
		if a.ID == sources[i].ID && a.ClusterID == cluster && a.StoreLevel > n.cfg.Level {
			return later("what the cluster has set since", a.StoreLevel, n.cfg.Level)
		}
	}
	return fmt.Errorf("it is of a store of level %d, and no other member says that this one has it", d.members.level)
}
