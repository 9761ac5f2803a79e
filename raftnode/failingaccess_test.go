package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/fsync"
)

// accesses lets one access of a node to its disk, its state machine or its identity
// fail, once: the first that comes from some place in the program. It notes all
// places. What fails is errCrash, which ends the node that gets it.
type accesses struct {
	mu     sync.Mutex
	from   map[string]bool
	target string
	failed bool
}

// place names who calls: the functions of this package on the stack, and their lines.
func place(what string) string {
	var pcs [40]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	parts := []string{what}
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "/raftnode.") && !strings.Contains(f.File, "_test.go") {
			parts = append(parts, fmt.Sprintf("%s:%d", f.Function[strings.LastIndex(f.Function, "/")+1:], f.Line))
		}
		if !more {
			return strings.Join(parts, " < ")
		}
	}
}

func (a *accesses) access(what string) error {
	at := place(what)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from[at] = true
	if at != a.target || a.failed {
		return nil
	}
	a.failed = true
	return errCrash
}

func (a *accesses) places() []string { return slices.Sorted(maps.Keys(a.from)) }

// faultySM is a state machine whose methods may fail.
type faultySM struct {
	*listSM
	a *accesses
}

func (s faultySM) Durable() (uint64, uint64, []byte, []byte, error) {
	if err := s.a.access("durable"); err != nil {
		return 0, 0, nil, nil, err
	}
	return s.listSM.Durable()
}

func (s faultySM) Bootstrap(index, term uint64, meta []byte, history [16]byte) error {
	if err := s.a.access("bootstrap"); err != nil {
		return err
	}
	return s.listSM.Bootstrap(index, term, meta, history)
}

func (s faultySM) Apply(index, term uint64, cmds [][]byte, meta []byte) ([]any, error) {
	if err := s.a.access("apply"); err != nil {
		return make([]any, len(cmds)), err
	}
	return s.listSM.Apply(index, term, cmds, meta)
}

func (s faultySM) Resolve(c []byte) (any, bool, error) {
	if err := s.a.access("resolve"); err != nil {
		return nil, false, err
	}
	return s.listSM.Resolve(c)
}

// Install fails when it has done its work: the next start has nothing to pull.
func (s faultySM) Install(index, term uint64, meta, snapshot []byte) error {
	return errors.Join(s.listSM.Install(index, term, meta, snapshot), s.a.access("install"))
}

func (s faultySM) Stage(ctx context.Context, snapshot []byte, fetch func(context.Context, string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error {
	if err := s.a.access("stage"); err != nil {
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return s.listSM.Stage(ctx, snapshot, fetch, fetchBodies)
}

// faultyDisk is a disk whose methods may fail.
type faultyDisk struct {
	disk
	a *accesses
}

func (d faultyDisk) save(state raftpb.HardState, entries []raftpb.Entry, sync bool) error {
	if err := d.a.access("save"); err != nil {
		return err
	}
	return d.disk.save(state, entries, sync)
}

func (d faultyDisk) saveSnapshot(s raftpb.Snapshot) error {
	if err := d.a.access("save a snapshot"); err != nil {
		return err
	}
	return d.disk.saveSnapshot(s)
}

func (d faultyDisk) release(index uint64) error {
	if err := d.a.access("release"); err != nil {
		return err
	}
	return d.disk.release(index)
}

// watch makes all accesses of a cluster's members, from their next start on, those
// of a.
func (c *crashCluster) watch(a *accesses) {
	for _, n := range c.nodes {
		n.accesses = a
		c.kill(n)
		n.down = 1
	}
}

// liveCluster is what a cluster goes through: puts, snapshots, a member that was away
// for so long that it needs one, a lost installation, a removal.
func liveCluster(t *testing.T, a *accesses) *crashCluster {
	c := newCrashCluster(t, 3, -1)
	c.watch(a)
	c.run(15)
	behind := c.nodes[3]
	c.kill(behind)
	behind.down = 150
	c.run(60)
	for i, id := range []ID{1, 2, 3} {
		c.kill(c.nodes[id])
		c.nodes[id].down = 1
		c.run(61 + i)
	}
	return c
}

// Every place in the program that writes to the disk or asks the state machine is
// once told that it failed. The node ends with that error, and is right when it
// starts again.
func TestNode_EveryAccess_FailsOnce(t *testing.T) {
	clean := &accesses{from: map[string]bool{}}
	liveCluster(t, clean)
	places := clean.places()
	if len(places) < 10 {
		t.Fatalf("only %d places: %q", len(places), places)
	}
	t.Logf("%d places", len(places))
	for _, at := range places {
		a := &accesses{from: map[string]bool{}, target: at}
		c := liveCluster(t, a)
		if a.failed && c.ended != 1 {
			t.Errorf("%s: the failure ended %d nodes, want 1", at, c.ended)
		}
	}
}

// Forcing a new cluster passes over no failure either: what is not on the disk is not
// done.
func TestForce_EveryAccess_FailsOnce(t *testing.T) {
	force := func(a *accesses) (*crashNode, error) {
		_, n, _ := survivors(t)
		n.accesses = a
		err := n.start(forceFrom(ForceOnce, 10))
		return n, err
	}
	clean := &accesses{from: map[string]bool{}}
	if _, err := force(clean); err != nil {
		t.Fatal(err)
	}
	for _, at := range clean.places() {
		a := &accesses{from: map[string]bool{}, target: at}
		n, err := force(a)
		if !errors.Is(err, errCrash) {
			t.Errorf("%s: the failure is answered with %v", at, err)
		}
		n.sm.crash()
		if err := n.start(forceFrom(ForceOnce, 10)); err != nil {
			t.Errorf("%s: the next start: %v", at, err)
		}
	}
}

// life is what a node of one goes through on real files: it is born, forms its
// cluster, puts something, stops, and starts again.
func life(t *testing.T, cfg Config, sm *listSM, a *accesses) error {
	cfg.sync = func(path string) error {
		if err := a.access("sync"); err != nil {
			return err
		}
		return fsync.Sync(path)
	}
	for i := range 2 {
		n, err := Open(cfg, faultySM{sm, a})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		_, putErr := n.proposeOne(ctx, fmt.Appendf(nil, "put %d", i))
		if putErr == nil {
			want := n.Status().Applied
			for deadline := time.Now().Add(patience); i == 1 && newestSnapshotAt(cfg.Dir) < want-1 && time.Now().Before(deadline) && len(ended) == 0; {
				runtime.Gosched()
			}
		}
		cancel()
		if err := <-ended; err != nil {
			return err
		}
		if putErr != nil {
			return fmt.Errorf("the node lives, but: %w", putErr)
		}
	}
	return nil
}

// newestSnapshotAt is the index of the newest snapshot file in a data directory.
func newestSnapshotAt(dir string) (index uint64) {
	names, _ := fileNames(snapDir(dir), ".snap")
	for _, name := range names {
		var term, at uint64
		if _, err := fmt.Sscanf(name, "%016x-%016x.snap", &term, &at); err == nil {
			index = max(index, at)
		}
	}
	return index
}

// The same of a node on real files, from its birth on: no failed fsync, and none of
// its state machine's errors, is passed over.
func TestNode_EveryStart_FailsOnce(t *testing.T) {
	config := func() Config {
		url := "http://127.0.0.1:1"
		return Config{Dir: t.TempDir(), Name: "n1", PeerURL: url, ClientURL: url, Tick: time.Millisecond, SnapshotLogBytes: 1, KeepLogBytes: 1}
	}
	clean := &accesses{from: map[string]bool{}}
	if err := life(t, config(), &listSM{}, clean); err != nil {
		t.Fatal(err)
	}
	places := clean.places()
	if len(places) < 15 {
		t.Fatalf("only %d places: %q", len(places), places)
	}
	t.Logf("%d places", len(places))
	for _, at := range places {
		cfg, sm, a := config(), &listSM{}, &accesses{from: map[string]bool{}, target: at}
		err := life(t, cfg, sm, a)
		if !a.failed {
			continue // it depends on what runs at the same time
		}
		if !errors.Is(err, errCrash) {
			t.Errorf("%s: the failure is answered with %v", at, err)
		}
		// On a copy: a node that does not trust its disk leaves the log locked.
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		cfg.Dir = dir
		if err := life(t, cfg, sm, &accesses{from: map[string]bool{}}); err != nil {
			t.Errorf("%s: the next life: %v", at, err)
		}
	}
}
