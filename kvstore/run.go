package kvstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// Run commits, flushes and merges the index, and reclaims bodies in the background, until
// ctx ends or the store dies. On the way out it commits what was applied. It returns nil
// when ctx ended, else the fatal error. Only one Run may run. It removes the index of an
// earlier version: by then this start was not refused.
func (s *Store) Run(ctx context.Context) error {
	if err := s.setRunning(true); err != nil {
		return err
	}
	if err := s.dropOldIndex(); err != nil {
		_ = s.setRunning(false)
		return s.failed("remove the index of an earlier version", err)
	}
	besideCtx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { s.runFlush(besideCtx) })
	beside.Go(func() { _ = s.failed("merge the index", indexError(s.index.Run(besideCtx))) })
	beside.Go(func() { _ = s.failed("keep the values", s.bodyError(bodies.Digest{}, s.bodies.Run(besideCtx))) }) // runCommit reports it
	err := s.runCommit(ctx)
	stop()
	beside.Wait()
	_ = s.bodies.Checkpoint(context.WithoutCancel(ctx)) // what it could not write the next start counts again
	_ = s.setRunning(false)
	return err
}

// setRunning tells Apply whether there is somebody to wait for.
func (s *Store) setRunning(running bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if running && s.running {
		return errors.New("run store: it is running already")
	}
	s.running = running
	s.releaseLocked()
	return nil
}

func (s *Store) runCommit(ctx context.Context) error {
	ticker := time.NewTicker(s.cfg.CommitInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.Commit()
		case <-s.dead:
			return s.err()
		case <-s.wakeCommit:
		case <-ticker.C:
		}
		if err := s.Commit(); err != nil {
			return err
		}
	}
}

// runFlush flushes whenever asked, but not while the index has too many runs: the memtable
// fills, and Apply pauses. runCommit reports a failure, which ends the store.
func (s *Store) runFlush(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dead:
			return
		case <-s.wakeFlush:
		}
		s.mu.RLock()
		due := s.flushDueLocked() || s.memtable.bytes >= s.cfg.MemtableBytes
		s.mu.RUnlock()
		if due && (s.index.Wait(ctx) != nil || s.flushFrozen(ctx) != nil) {
			return
		}
	}
}
