package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/Focinfi/oncekv/internal/fsync"
)

// dying is a process that is killed at one of its durable steps: before the step has
// done anything, or after it has.
type dying struct {
	at    int // the step, from 1; 0: none
	after bool
	steps int
}

func (d *dying) step(do func() error) error {
	d.steps++
	switch {
	case d.steps != d.at:
		return do()
	case d.after:
		return errors.Join(do(), errCrash)
	}
	return errCrash
}

func (d *dying) sync(path string) error {
	return d.step(func() error { return fsync.Sync(path) })
}

// dyingSM is the state machine of such a process.
type dyingSM struct {
	*listSM
	d *dying
}

func (s dyingSM) Bootstrap(index, term uint64, meta []byte, history [16]byte) error {
	return s.d.step(func() error { return s.listSM.Bootstrap(index, term, meta, history) })
}

func (s dyingSM) Fork(index, term uint64, meta []byte, history [16]byte) error {
	return s.d.step(func() error { return s.listSM.Fork(index, term, meta, history) })
}

// lives opens and runs a process until it dies, or has put something. Others reach it at
// the listener, nobody if there is none.
func (d *dying) lives(t *testing.T, cfg Config, sm *listSM, ln net.Listener) error {
	cfg.sync = d.sync
	n, err := Open(cfg, dyingSM{sm, d})
	if ln != nil {
		defer ln.Close()
	}
	if err != nil {
		return err
	}
	if ln != nil {
		srv := &http.Server{Handler: n.Handler()}
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(ln) }()
		defer func() { _ = srv.Close(); <-served }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	put := make(chan error, 1)
	go func() {
		for {
			_, err := n.proposeOne(ctx, []byte("put"))
			if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
				put <- err
				return
			}
		}
	}()
	select {
	case err := <-ended:
		<-put
		return err
	case err := <-put:
		cancel()
		return errors.Join(<-ended, err)
	}
}

// copied puts what is in a data directory into a new one: a process that dies leaves its
// log locked, as long as the test runs.
func copied(t *testing.T, cfg *Config) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), cfg.Name)
	if err := os.CopyFS(dir, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	cfg.Dir = dir
}

// Wherever a founder dies while a cluster forms, and whether the others have formed it by
// then or not: when it starts again, all have the same history, and go through no other.
func TestForm_CrashAtEveryStep(t *testing.T) {
	clean := &dying{}
	n := newTestNode(t, "n1")
	if err := clean.lives(t, n.cfg, n.sm, n.ln); err != nil {
		t.Fatal(err)
	}
	if clean.steps < 10 {
		t.Fatalf("only %d steps", clean.steps)
	}
	t.Logf("%d steps", clean.steps)
	for at := 1; at <= clean.steps; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-after-%v", at, after), func(t *testing.T) {
				t.Parallel()
				nodes := unstarted(t, 3)
				for _, n := range nodes[1:] {
					n.start()
				}
				one := nodes[0]
				d := &dying{at: at, after: after}
				err := d.lives(t, one.cfg, one.sm, one.ln)
				if d.steps >= at && !errors.Is(err, errCrash) {
					t.Fatalf("step %d was its last, and it ended with %v", at, err)
				}
				one.ln = nil
				copied(t, &one.cfg)
				one.start()
				mustPropose(t, one, "after")
				eventually(t, "all have it", func() bool {
					for _, n := range nodes {
						if !slices.ContainsFunc(n.sm.list(), func(c []byte) bool { return string(c) == "after" }) {
							return false
						}
					}
					return true
				})
				histories := oneHistory(t, nodes)
				for _, n := range nodes {
					if id := n.node.Status().ClusterID; len(histories) != 1 || histories[0].cluster() != id {
						t.Errorf("%s is of cluster %v, and went through the histories %v", n.cfg.Name, id, histories)
					}
				}
			})
		}
	}
}

// Wherever the survivor dies while it forces a new cluster, and starts again with the same
// line, and then without the word: it has begun one history more, whether it is told that
// this was done already or not.
func TestForce_OneHistory_CrashAtEveryStep(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	mustPropose(t, nodes[0], "before")
	sameLists(t, nodes, 1)
	old := oneHistory(t, nodes)[0]
	for _, n := range nodes {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	survivor := nodes[0]
	force := func(t *testing.T, d *dying) {
		cfg, sm := survivor.cfg, &listSM{now: survivor.sm.now.clone(), durable: survivor.sm.durable.clone()}
		cfg.ForceNewCluster = ForceOnce
		var err error
		for range 2 {
			copied(t, &cfg)
			if err = d.lives(t, cfg, sm, nil); !errors.Is(err, errCrash) {
				break
			}
			sm.crash()
		}
		if _, done := errors.AsType[*ForceError](err); err != nil && !done {
			t.Fatalf("ended with %v", err)
		}
		cfg.ForceNewCluster = ""
		copied(t, &cfg)
		if err := (&dying{}).lives(t, cfg, sm, nil); err != nil {
			t.Fatalf("started without the word: %v", err)
		}
		id, err := loadIdentity(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		h := sm.histories()
		if len(h) != 2 || h[0] != old || h[1] == old || h[1].cluster() != id.ClusterID || len(id.Forced) != 1 || id.Forced[0].History != h[1] {
			t.Fatalf("the identity is of cluster %v, forced %+v, and the state went through the histories %v", id.ClusterID, id.Forced, h)
		}
	}
	clean := &dying{}
	force(t, clean)
	if clean.steps < 5 {
		t.Fatalf("only %d steps", clean.steps)
	}
	t.Logf("%d steps", clean.steps)
	for at := 1; at <= clean.steps; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d-after-%v", at, after), func(t *testing.T) {
				t.Parallel()
				force(t, &dying{at: at, after: after})
			})
		}
	}
}
