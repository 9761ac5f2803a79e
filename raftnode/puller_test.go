package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"
)

// There is one staging area: a snapshot must not be pulled into it while the one
// before waits there to be installed.
func TestNode_SnapshotWaitsForTheOneBefore(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	offer := func(index uint64) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Snapshot: raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: index, Term: 1}}}
	}
	n.installed = 50 // handed to the applier, which stands at 1
	if n.wantsPull(offer(60)) {
		t.Fatal("pulls what overwrites a staged snapshot")
	}
	n.progress.set(50)
	if !n.wantsPull(offer(60)) || n.wantsPull(offer(61)) {
		t.Fatal("one pull at a time, once the one before is installed")
	}
}

// What a pull ends with decides whether the node goes on, what it says, and what the
// loop hears.
func TestNode_StartPull_Ends(t *testing.T) {
	for _, c := range []struct {
		err   error
		fails bool
		says  string
	}{
		{nil, false, ""},
		{fmt.Errorf("%w: write", errDisk), true, ""},
		{fmt.Errorf("%w: n1", ErrDiverged), true, ""},
		{&DisputeError{reason: "nobody can tell"}, false, "does not pull"},
		{errors.New("it broke off"), false, "gave up"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newCrashCluster(t, 3, -1).nodes[1].node
			log := &logLines{}
			n.logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelError}))
			n.disputes = rate.NewLimiter(rate.Every(DisputeEvery), 1)
			n.sm = &partsSM{listSM: &listSM{}, stage: c.err}
			var failed error
			var wg sync.WaitGroup
			meta, err := n.core.members.encode()
			if err != nil {
				t.Fatal(err)
			}
			data := snapshotData{meta: meta, state: []byte("0")}.encode()
			n.startPull(t.Context(), raftpb.Message{From: 2, Snapshot: raftpb.Snapshot{Data: data, Metadata: raftpb.SnapshotMetadata{Index: 50, Term: 1}}}, func(err error) { failed = err }, &wg)
			wg.Wait()
			if (failed != nil) != c.fails || c.fails && !errors.Is(failed, c.err) {
				t.Errorf("%v ends the node with %v", c.err, failed)
			}
			switch {
			case c.fails && len(n.pulls) > 0:
				t.Errorf("%v is told to the loop", c.err)
			case !c.fails && len(n.pulls) == 0:
				t.Errorf("%v is not told to the loop", c.err)
			case !c.fails:
				if p := <-n.pulls; !errors.Is(p.err, c.err) || (p.err == nil) != (c.err == nil) || p.m.Snapshot.Metadata.Index != 50 {
					t.Errorf("%v is told to the loop as %v", c.err, p.err)
				}
			}
			if len(log.lines) > 0 != (c.says != "") || c.says != "" && log.with(c.says) != 1 {
				t.Errorf("%v is logged as %q", c.err, log.lines)
			}
		})
	}
}

// A pull asks who sent the snapshot first, then the others, and never the node itself.
// Who has just joined knows only whom it was told of.
func TestNode_SnapshotSources(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	ids := func(members []Member) (ids []ID) {
		for _, m := range members {
			ids = append(ids, m.ID)
		}
		return ids
	}
	for first, want := range map[ID][]ID{2: {2, 3}, 3: {3, 2}, 9: {2, 3}} {
		if got := ids(n.sources(n.knownMembers(), first)); !slices.Equal(got, want) {
			t.Errorf("of n%d: %v", first, got)
		}
	}
	n.status.Store(&Status{})
	n.identity.Store(&identity{ID: 1, Peers: []Member{{ID: 1}, {ID: 7}, {ID: 8}}})
	if got := ids(n.sources(n.knownMembers(), 8)); !slices.Equal(got, []ID{8, 7}) {
		t.Errorf("when no member is known: %v", got)
	}
}

// What the loop hears from pulls: one that brought everything is handed to raft.
func TestNode_Loop_HearsOfPulls(t *testing.T) {
	for _, pullErr := range []error{nil, errors.New("nobody has it")} {
		_, f := follower(t)
		n, c := f.node, f.node.core
		at := c.savedIndex + 100
		m := raftpb.Message{Type: raftpb.MsgSnap, From: c.lead, To: uint64(f.id), Term: c.term, Snapshot: raftpb.Snapshot{
			Data:     snapshotData{meta: must(c.members.encode()), state: []byte("0")}.encode(),
			Metadata: raftpb.SnapshotMetadata{Index: at, Term: c.term, ConfState: c.members.conf},
		}}
		n.pulling = true
		n.pulls <- pullResult{m, pullErr}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.loop(ctx, nil, nil, nil) }()
		eventually(t, "the loop hears of the pull", func() bool { return len(n.pulls) == 0 })
		if err := n.call(ctx, func(*core) {}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if n.pulling || (c.savedIndex == at) != (pullErr == nil) {
			t.Errorf("%v: still pulling: %v; the log begins at %d", pullErr, n.pulling, c.savedIndex)
		}
	}
}

// A snapshot that the node has already is not pulled, and raft says so; one that it
// lacks is pulled, one at a time.
func TestNode_CarryOut_Pulls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, f := follower(t)
		n := f.node
		n.sm = &partsSM{listSM: &listSM{}}
		offer := func(index uint64) raftpb.Message {
			return raftpb.Message{Type: raftpb.MsgSnap, From: n.core.lead, To: uint64(f.id), Term: n.core.term, Snapshot: raftpb.Snapshot{
				Data:     snapshotData{meta: must(n.core.members.encode()), state: []byte("0")}.encode(),
				Metadata: raftpb.SnapshotMetadata{Index: index, Term: n.core.term, ConfState: n.core.members.conf},
			}}
		}
		fail := func(err error) { t.Error(err) }
		var wg sync.WaitGroup
		carryOut := func(index ...uint64) {
			t.Helper()
			for _, i := range index {
				n.core.snaps = append(n.core.snaps, offer(i))
			}
			w, _ := n.core.next()
			if err := n.carryOut(t.Context(), w, fail, &wg); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
		}
		carryOut(n.core.commit)
		if n.pulling || len(n.pulls) != 0 {
			t.Error("it pulls what it has")
		}
		at := n.core.commit + 100
		carryOut(at, at+1)
		if !n.pulling || len(n.pulls) != 1 || (<-n.pulls).m.Snapshot.Metadata.Index != at {
			t.Error("it does not pull what was offered first")
		}
	})
}
