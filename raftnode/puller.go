package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"
)

// puller brings a snapshot's data here before raft hears of the snapshot. One
// at a time; a newer snapshot that arrives meanwhile is offered again by the
// leader and finds most of its data staged already.
type puller struct {
	tries  int // until pull gives up; 0: never
	sender ID  // who offered the snapshot, if anybody did
	// check returns nil for a source whose history this node's is the past of, as
	// far as both go.
	check   func(ctx context.Context, source Member) error
	sm      StateMachine
	cluster ID
	client  *http.Client
	logger  *slog.Logger
}

func (n *Node) newPuller() *puller {
	return &puller{
		check: func(ctx context.Context, source Member) error {
			return n.checkSource(ctx, n.status.Load().Members, source)
		},
		sm: n.sm, cluster: n.self.ClusterID, client: n.client, logger: n.logger,
	}
}

// errNoSource: nobody else could be asked.
var errNoSource = errors.New("no other member is known that could send the data")

// pullTries bound the pull of a snapshot that was offered. Whoever offered it may
// have invented it, and it must not keep others waiting. The leader offers its own
// again, and what was staged stays.
const pullTries = 10

// pullFailedEvery is how often one pull logs that it has failed and goes on. It tries
// a few times a second, for as long as nobody has the data.
const pullFailedEvery = 10 * time.Second

// pulled is how the pull of an offered snapshot ended.
type pulled struct {
	m   raftpb.Message
	err error
}

// disputePause is how long a pull waits after a source that has another history.
const disputePause = 5 * time.Second

// pull stages s from any of the sources, the given order first, and goes
// round until it succeeds, gives up, or ctx ends. ErrDiverged means that most voters
// have another history than this node. A snapshot of somebody with another history is
// given up at once.
func (p *puller) pull(ctx context.Context, s raftpb.Snapshot, sources func() []Member) error {
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	say := rate.NewLimiter(rate.Every(pullFailedEvery), 1)
	for attempt := 1; ; attempt++ {
		all := sources()
		if len(all) == 0 {
			return errNoSource
		}
		source := all[(attempt-1)%len(all)]
		err := p.pullFrom(ctx, source, s.Metadata.Index, d.state)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		disputed := errors.As(err, new(*DisputeError))
		if errors.Is(err, ErrDisk) || errors.Is(err, ErrDiverged) || attempt == p.tries || disputed && source.ID == p.sender {
			return err
		}
		if say.Allow() {
			p.logger.Warn("pulling a snapshot failed, trying again", "index", s.Metadata.Index, "from", source.Name, "err", err)
		}
		pause := time.Duration(200+rand.IntN(300)) * time.Millisecond
		if disputed && p.tries == 0 {
			pause = disputePause
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// pullFrom stages what one source sends.
func (p *puller) pullFrom(ctx context.Context, source Member, index uint64, state []byte) error {
	if err := p.check(ctx, source); err != nil {
		return err
	}
	return p.sm.Stage(ctx, state, func(ctx context.Context, query string) (io.ReadCloser, error) {
		return p.fetch(ctx, source.PeerURL, index, query)
	}, fetchBodies(p.client, p.cluster, source.PeerURL))
}

// pullIdle bounds how long a body may give nothing.
const pullIdle = 10 * time.Second

func (p *puller) fetch(ctx context.Context, url string, index uint64, query string) (io.ReadCloser, error) {
	return fetchIdle(ctx, p.client, p.cluster, fmt.Sprintf("%s%s?index=%d&%s", url, snapshotPath, index, query))
}

// fetchIdle asks another member for what may take long. The deadline is by progress.
func fetchIdle(ctx context.Context, client *http.Client, cluster ID, url string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	idle := time.AfterFunc(pullIdle, cancel)
	fail := func(err error) (io.ReadCloser, error) {
		idle.Stop()
		cancel()
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set(clusterHeader, cluster.String())
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fail(fmt.Errorf("%s answered %s: %s", url, resp.Status, text))
	}
	return &idleBody{body: resp.Body, idle: idle, cancel: cancel}, nil
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
