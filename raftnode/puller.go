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
	tries   int // until pull gives up; 0: never
	sm      StateMachine
	cluster ID
	client  *http.Client
	logger  *slog.Logger
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

// pull stages s from any of the sources, the given order first, and goes
// round until it succeeds, gives up, or ctx ends.
func (p *puller) pull(ctx context.Context, s raftpb.Snapshot, sources func() []string) error {
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	say := rate.NewLimiter(rate.Every(pullFailedEvery), 1)
	for attempt := 1; ; attempt++ {
		urls := sources()
		if len(urls) == 0 {
			return errNoSource
		}
		url := urls[(attempt-1)%len(urls)]
		err := p.sm.Stage(ctx, d.state, func(ctx context.Context, query string) (io.ReadCloser, error) {
			return p.fetch(ctx, url, s.Metadata.Index, query)
		})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrDisk) || attempt == p.tries {
			return err
		}
		if say.Allow() {
			p.logger.Warn("pulling a snapshot failed, trying again", "index", s.Metadata.Index, "from", url, "err", err)
		}
		wait := time.NewTimer(time.Duration(200+rand.IntN(300)) * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// pullIdle bounds how long a body may give nothing.
const pullIdle = 10 * time.Second

func (p *puller) fetch(ctx context.Context, url string, index uint64, query string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	// The deadline is by progress: a large store takes as long as it takes.
	idle := time.AfterFunc(pullIdle, cancel)
	fail := func(err error) (io.ReadCloser, error) {
		idle.Stop()
		cancel()
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s?index=%d&%s", url, snapshotPath, index, query), nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set(clusterHeader, p.cluster.String())
	resp, err := p.client.Do(req)
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
