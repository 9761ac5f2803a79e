package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
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
	// pullIdle bounds how long a body may give nothing.
	pullIdle = 10 * time.Second
	// disputePause is how long a pull waits after a source that has another history.
	disputePause = 5 * time.Second
)

// errNoSource: nobody else could be asked.
var errNoSource = errors.New("no other member is known that could send the data")

// pullResult is how the pull of an offered snapshot ended.
type pullResult struct {
	m   raftpb.Message
	err error
}

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

// knownMembers are those of the cluster as this node knows it, or as it was told when
// it joined.
func (n *Node) knownMembers() []Member {
	if members := n.status.Load().Members; len(members) > 0 {
		return members
	}
	return n.identity.Load().Peers
}

// sources lists the members to ask for what this node lacks, one of them before the
// others.
func (n *Node) sources(members []Member, first ID) []Member {
	sources := n.others(members)
	if i := slices.IndexFunc(sources, func(m Member) bool { return m.ID == first }); i > 0 {
		m := sources[i]
		sources = slices.Insert(slices.Delete(sources, i, i+1), 0, m)
	}
	return sources
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

// fetchIdle asks another member for what may take long. The deadline is by progress.
func fetchIdle(ctx context.Context, client *http.Client, cluster ID, url string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	idle := time.AfterFunc(pullIdle, cancel)
	resp, err := ask(ctx, client, cluster, http.MethodGet, url, nil)
	if err != nil {
		idle.Stop()
		cancel()
		return nil, err
	}
	body := &idleBody{body: resp.Body, idle: idle, cancel: cancel}
	if resp.StatusCode != http.StatusOK {
		defer body.Close()
		text, _ := io.ReadAll(io.LimitReader(body, 1024))
		return nil, fmt.Errorf("%s answered %s: %s", url, resp.Status, text)
	}
	return body, nil
}

// idleBody cancels its request when nothing arrives for pullIdle.
type idleBody struct {
	body   io.ReadCloser
	idle   *time.Timer
	cancel context.CancelFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.idle.Reset(pullIdle)
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.idle.Stop()
	b.cancel()
	return b.body.Close()
}
