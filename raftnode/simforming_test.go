package raftnode

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// member finds the machine on which a member runs, or would; nil if its data is gone.
func (w *simWorld) member(raft ID) *simNode {
	for _, s := range w.nodes { // at most one
		if s.raft == raft && !s.beside {
			return s
		}
	}
	return nil
}

// takesPart returns the process if it belongs to a cluster already.
func (s *simNode) takesPart() *simLife {
	if s.life == nil || s.life.bootstraps || s.life.node.core == nil {
		return nil
	}
	return s.life
}

// actor makes who acts for a process beside its steps, and waits for turns as clients do.
func (w *simWorld) actor() *simClient {
	w.actors++
	return &simClient{w: w, number: -w.actors}
}

// bootstrapClient is who asks for a machine that belongs to no cluster yet.
func (s *simNode) bootstrapClient(ctx context.Context) (context.Context, *simClient) {
	c := s.w.actor()
	c.r = rand.New(rand.NewPCG(s.w.r.Uint64(), 5))
	return context.WithValue(ctx, simClientKey{}, c), c
}

// bootstrap forms or joins a cluster, as Run does first. Others are asked in the turns of
// the scheduler.
func (s *simNode) bootstrap(ctx context.Context, life *simLife) {
	ctx, c := s.bootstrapClient(ctx)
	life.bootstraps, s.files.bootstraps = true, true
	if s.joins {
		life.node.cfg.Join = func(ctx context.Context, self Member) ([]Member, error) { return s.join(ctx, c, self) }
	}
	s.w.behind.Add(1)
	go func() {
		defer s.w.behind.Add(-1)
		c.await()
		err := life.node.bootstrap(ctx)
		life.bootstrapped <- err // capacity 1
	}()
}

// join asks any member to take this machine in, as server does over HTTP.
func (s *simNode) join(ctx context.Context, c *simClient, self Member) ([]Member, error) {
	self.Promote = c.r.IntN(4) > 0
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		to, life := c.pick()
		if life != nil && s.w.calm.Load() && len(life.node.Status().Members) == 0 {
			life = nil // it would wait for a leader each time; whoever starts a node names a member
		}
		if life != nil && to != s && s.w.connected(s.id, to.id) && s.w.connected(to.id, s.id) {
			_, _, err := life.node.AddMember(ctx, self)
			c.await()
			if s.raft == self.ID { // else it was wiped
				s.w.moved(self, err) // it joins with the URL it was started with, even if it was a member already, and moved
			}
			switch {
			case err == nil && !life.dead:
				return life.node.Status().Members, nil
			case errors.Is(err, ErrRefused), errors.Is(err, ErrBadMember):
				return nil, fmt.Errorf("join: %w", err)
			}
		}
		timer := time.NewTimer(500 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		c.await()
	}
}

// finishBootstrap looks whether a machine belongs to a cluster now, and then lets it take
// part.
func (s *simNode) finishBootstrap() error {
	select {
	case err := <-s.life.bootstrapped:
		if err != nil {
			return err
		}
		s.life.bootstraps, s.files.bootstraps = false, false
		s.w.note("n%d is %v of cluster %v", s.id, s.raft, s.life.node.self.ClusterID)
		return s.takePart(s.life)
	default:
		return nil
	}
}

// simStart bounds a start that needs what others have: they do not start while it waits.
const simStart = 10 * time.Second

// takePart is what Run does once the cluster is known.
func (s *simNode) takePart(life *simLife) error {
	n := life.node
	n.arrivals = s.arrivals(life, n)
	ctx, cancel := context.WithTimeout(context.Background(), simStart)
	defer cancel()
	if err := n.recover(ctx); err != nil {
		return err
	}
	s.lastSelf = n.self
	if err := s.starts(life); err != nil {
		return err
	}
	life.compared = life.store.Stats().Revision
	if err := s.w.applied(s, life); err != nil { // what it had
		return err
	}
	if err := n.lookForEnd(context.Background()); err != nil {
		return err
	}
	if err := s.files.alive(); err != nil {
		return err
	}
	for _, m := range n.peersAtStart() {
		n.simPeer(m.ID, m.PeerURL)
	}
	n.arrivals.start()
	life.db = kvstore.NewDB(life.store, simLog{s.w, n}, s.dbConfig())
	life.storeRuns.Go(func() {
		if err := life.store.Run(life.ctx); err != nil {
			life.storeErr.Store(&err)
		}
	})
	s.sweep(life.ctx, life)
	s.raise(life.ctx, life)
	s.phase = simTick * s.w.r.Float64()
	s.w.quiet()
	s.writes.set(s.w.calm.Load())
	return nil
}

// refusedRightly reports whether a machine must not come to belong to a cluster: it was
// removed before it knew that it was a member, or founded a cluster from which another
// was forced before it knew that there is one, or asked one that has ended to take it
// in again.
func (w *simWorld) refusedRightly(s *simNode, err error) bool {
	if !errors.Is(err, ErrRefused) {
		return false
	}
	if !s.joins {
		return w.force != nil && w.force.removed[s.raft] && s.lastSelf.ClusterID == 0
	}
	for _, other := range w.nodes {
		life := other.takesPart()
		if life == nil {
			continue
		}
		if w.lost(life.node.self.ClusterID) && slices.ContainsFunc(life.node.core.members.list(), func(m Member) bool { return m.Name == s.name }) {
			return true
		}
	}
	if w.force != nil && w.force.removed[s.raft] {
		return true // a member of the old cluster, before it heard of that
	}
	return w.unwanted[s.raft] // who said so may have crashed since
}

// wipe empties a machine that was removed, and lets it join again.
func (w *simWorld) wipe(s *simNode) {
	w.note("n%d is wiped, and joins again", s.id)
	s.history, s.index, s.staging = engine.NewMemEngine(), keyruns.NewMemFiles(), engine.NewMemEngine()
	s.files.wipe()
	s.files = newSimFiles(s)
	s.raft, s.joins, s.gone, s.left, s.pulled, s.force = 0, true, false, false, false, ""
	s.lastSelf = identity{}
	if s == w.rotten {
		w.verifies = false // what was damaged is gone
	}
	s.wakeAt = w.step + w.r.Int64N(100)
}

// rejoin lets a machine that was removed join again, if there is one.
func (w *simWorld) rejoin() {
	var left []*simNode
	for id := ID(1); id <= ID(len(w.nodes)); id++ {
		if s := w.nodes[id]; s.left {
			left = append(left, s)
		}
	}
	if len(left) > 0 {
		w.wipe(left[w.r.IntN(len(left))])
	}
}

// wipe removes everything.
func (f *simFiles) wipe() {
	for _, i := range f.inodes {
		i.file.Close()
	}
	f.must(os.RemoveAll(f.root))
}
