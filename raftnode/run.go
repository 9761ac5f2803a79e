package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/raft/v3"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// Run forms or joins the cluster if the node has none yet, then takes part in it until ctx
// ends (nil), the node is removed (ErrRemoved), a later version is needed
// (*level.LaterError), or it must not go on (any other error). Handler must be served
// meanwhile. All calls that still wait when Run returns get an error.
func (n *Node) Run(ctx context.Context) (err error) {
	defer close(n.stopped)
	defer n.refuseAll()
	if f := n.self.Ended; f != nil && n.cfg.ForceNewCluster == "" {
		return n.endedError(f)
	}
	if err := n.bootstrap(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := n.recover(ctx); err != nil {
		if n.disk != nil {
			err = errors.Join(err, n.disk.close())
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := n.lookForEnd(ctx); err != nil {
		return errors.Join(err, n.disk.close())
	}
	errorC := make(chan error, 1)
	t, err := newHTTPTransport(n.self.ID, n.self.ClusterID, n.peerURL(), snapDir(n.cfg.Dir), n, errorC, n.logger)
	if err != nil {
		return errors.Join(fmt.Errorf("start the peer transport: %w", err), n.disk.close())
	}
	n.transport = peerTransport{t, n.pushes, n.arrivals, n.pushClient}
	n.arrivals.start()
	for _, m := range n.peersAtStart() {
		n.transport.setPeer(m.ID, m.PeerURL)
	}
	handler := t.handler()
	n.raftHTTP.Store(&handler)
	return n.supervise(ctx, errorC)
}

// peerURL is where others reach this node: as configured, or as they know it.
func (n *Node) peerURL() string {
	if n.cfg.PeerURL != "" {
		return n.cfg.PeerURL
	}
	for _, m := range slices.Concat(n.core.members.list(), membersOf(n.self.Founders), n.self.Peers) {
		if m.ID == n.self.ID && checkForm(m.PeerURL) == nil {
			return m.PeerURL
		}
	}
	return n.cfg.ClientURL // it was removed: nobody asks for it
}

// supervise runs loop, applier and pulls, stops all when one ends, and waits for them.
func (n *Node) supervise(ctx context.Context, errorC <-chan error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.applier.run(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() { n.keepRaising(ctx) })
	err := n.loop(ctx, cancel, &wg, errorC)
	if err == nil {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
			err = cause
		}
	}
	cancel(err)
	n.raftHTTP.Store(nil)
	n.transport.stop()
	wg.Wait()
	n.client.CloseIdleConnections()
	if errors.Is(err, errDisk) || errors.Is(err, shortage.Err) {
		return err // closing would sync once more what must not be trusted, or is half open
	}
	return errors.Join(err, n.disk.close())
}

// refuseAll answers everything that waits.
func (n *Node) refuseAll() {
	left := n.inbox.close()
	n.waiters.failAll()
	n.progress.failAll()
	answerReads(left.reads, ErrStopped)
	if n.core != nil {
		answerReads(n.core.reads, ErrStopped)
		if n.core.round != nil {
			answerReads(n.core.round.reads, ErrStopped)
		}
	}
}

// checkpointTicks is how often the durable state is looked at.
const checkpointTicks = 5

// loop is the only goroutine that touches the core. Its saves are inline:
// while the disk works, everything else gathers in the inbox, and at most one
// Ready is outstanding.
func (n *Node) loop(ctx context.Context, fail context.CancelCauseFunc, wg *sync.WaitGroup, errorC <-chan error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case raftPanic:
			err = fmt.Errorf("%w: raft found its log inconsistent: %s", errDisk, string(p))
		default:
			panic(p) // a bug: Run must not look as if it had been told to end
		}
	}()
	ticker := time.NewTicker(n.cfg.Tick)
	defer ticker.Stop()
	always := make(chan struct{})
	close(always)
	busy := always // work may be left over from the start
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-errorC:
			// The only critical error of rafthttp: a member says that this one was removed,
			// again for each message.
			n.askForEnd(ctx, wg, err)
		case f := <-n.endings:
			if err := n.answered(ctx, wg, f); err != nil {
				return err
			}
		case <-n.released:
			return ErrRemoved
		case <-ticker.C:
			if err := n.bodiesErr(); err != nil {
				return err
			}
			n.core.tick()
			if n.core.now%checkpointTicks == 0 {
				if err := n.checkpoint(); err != nil {
					return err
				}
			}
		case p := <-n.pulls:
			n.pulling = false
			if p.err == nil {
				n.core.staged(p.m)
			}
		case <-n.inbox.wake:
		case <-busy:
		}
		n.deliver(n.inbox.take())
		w, ok := n.core.next()
		n.inbox.setQueued(n.core.queueBytes)
		busy = nil
		if ok {
			busy = always
			if err := n.carryOut(ctx, w, fail, wg); err != nil {
				return err
			}
		}
		n.publish()
	}
}

// bodiesErr returns why bodies cannot be kept any more, nil while they can.
func (n *Node) bodiesErr() error {
	if n.cfg.Bodies == nil {
		return nil
	}
	return diskErr(n.cfg.Bodies.Err(), "keep the bodies of values")
}

// deliver hands the mail to the core.
func (n *Node) deliver(m mail) {
	for _, msg := range m.msgs {
		n.core.step(msg)
	}
	for _, id := range m.lost {
		n.core.rn.ReportUnreachable(id)
	}
	for _, f := range m.calls {
		f(n.core)
	}
	if len(m.cmds) > 0 {
		n.core.propose(m.cmds)
	}
	if len(m.reads) > 0 {
		n.core.read(m.reads)
	}
}

// carryOut does one piece of work in the order that makes it safe.
func (n *Node) carryOut(ctx context.Context, w work, fail context.CancelCauseFunc, wg *sync.WaitGroup) error {
	n.transport.send(w.early)
	if !raft.IsEmptySnap(w.snapshot) {
		// The state goes first, and the snapshot's fsync makes it durable: a snapshot
		// beyond the commit index on disk counts for nothing when the WAL is read, but it
		// may be installed by then.
		if err := n.disk.save(w.state, nil, true); err != nil {
			return err
		}
		if err := n.whileShort(ctx, func() error { return n.disk.saveSnapshot(w.snapshot) }); err != nil {
			return err
		}
	}
	if err := n.save(w); err != nil {
		return err
	}
	h, err := n.core.done()
	if err != nil {
		return err
	}
	for _, p := range h.peers {
		n.transport.setPeer(p.id, p.url)
	}
	// These messages are promises about the disk. A follower must have applied a membership
	// change before it answers, or it could win an election among members that are gone.
	n.transport.send(w.late)
	n.applier.put(h)
	if !raft.IsEmptySnap(w.snapshot) {
		n.installed = w.snapshot.Metadata.Index
	}
	for _, m := range w.stage {
		if n.wantsPull(m) {
			n.startPull(ctx, m, fail, wg)
		}
	}
	if h.removed {
		n.leave(ctx, wg)
	}
	return nil
}

// save writes the work's state and entries, and says how long its fsync took.
func (n *Node) save(w work) error {
	began := time.Now()
	err := n.disk.save(w.state, w.entries, w.sync)
	if err == nil && w.sync && n.cfg.OnFsync != nil {
		n.cfg.OnFsync(time.Since(began))
	}
	return err
}

// checkpoint takes a local snapshot if one is due, and drops the log that need not stay.
func (n *Node) checkpoint() error {
	durable, err := durableOf(n.sm)
	if err != nil {
		return err
	}
	due, err := n.core.checkpoint(durable.index)
	if err != nil {
		return err
	}
	if due {
		if err := n.snapshot(durable); err != nil {
			return err
		}
	}
	return n.core.letBodiesGo()
}

// snapshot takes a local snapshot: two small writes, because the state itself is on disk
// already. Then the log before it may go.
func (n *Node) snapshot(d durableState) error {
	if err := n.takeSnapshot(n.core.log, d); err != nil {
		return n.later(err, "a snapshot")
	}
	n.core.snapped = n.core.now
	n.logger.Debug("took a snapshot", "index", d.index, "term", d.term, "log_bytes", n.core.log.bytes)
	return n.later(n.disk.release(d.index), "removing the log before a snapshot")
}

// later forgives an error of a system that is short of files or memory, because the work is
// done at the next occasion. It logs that once a minute.
func (n *Node) later(err error, what string) error {
	if !errors.Is(err, shortage.Err) {
		return err
	}
	if now := time.Now(); now.Sub(n.shortTold) >= time.Minute {
		n.shortTold = now
		n.logger.Warn(what+" has to wait", "err", err)
	}
	return nil
}

// shortageTime is how long the node waits for such a system where it cannot go on without.
const shortageTime = 5 * time.Second

// whileShort repeats f while the system is short of files or memory, up to shortageTime.
func (n *Node) whileShort(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, shortageTime)
	defer cancel()
	for {
		err := f()
		if !errors.Is(err, shortage.Err) {
			return err
		}
		_ = n.later(err, "the snapshot of another member")
		if sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}
