package raftnode

import (
	"errors"
	"slices"
	"testing"
)

// A call that gives up while its command is on the way into raft must not
// answer that nothing happened.
func TestWaiters_GiveUpDuringHandover_IsUnknown(t *testing.T) {
	t.Parallel()
	ws := newWaiters(7)
	w := ws.addOne([]byte("x"))
	queue := []command{{origin: 7, seq: w.seq, data: w.data}}
	if got := ws.claim(queue, 1); len(got) != 1 {
		t.Fatalf("claimed %d commands, want 1", len(got))
	}
	if ws.giveUp(w.group, ErrUnavailable, ErrOutcomeUnknown); w.group.outcomes[0].err != ErrOutcomeUnknown {
		t.Fatal("dropped as never handed over, but raft gets it now")
	}
	if got := ws.claim(queue, 2); len(got) != 0 {
		t.Fatal("handed over although nobody waits")
	}
	// What raft refused was never handed over.
	w = ws.addOne([]byte("y"))
	ws.unclaim(ws.claim([]command{{origin: 7, seq: w.seq, data: w.data}}, 3))
	if ws.giveUp(w.group, ErrUnavailable, ErrOutcomeUnknown); w.group.outcomes[0].err != ErrUnavailable {
		t.Fatal("refused by raft, but counts as handed over")
	}
}

// A read has its answer as soon as what it waits for is applied, and not before.
func TestProgress_Wait(t *testing.T) {
	t.Parallel()
	p := &progress{}
	reads := make([]*read, 6)
	for i := range reads {
		reads[i] = newRead()
		p.wait(uint64(i), reads[i:i+1])
	}
	answered := func(want int) {
		t.Helper()
		for i, r := range reads {
			if (len(r.done) == 1) != (i < want) {
				t.Errorf("at entry %d read %d has %d answers", p.index(), i, len(r.done))
			}
		}
	}
	answered(1)
	p.set(3)
	answered(4)
	p.set(4)
	answered(5)
	p.failAll()
	answered(6)
	if err := <-reads[5].done; !errors.Is(err, ErrStopped) {
		t.Errorf("what was never applied is answered with %v", err)
	}
	for _, r := range reads[:5] {
		if err := <-r.done; err != nil {
			t.Error(err)
		}
	}
}

// When a node stops, who waits for what raft has had hears that nobody knows; who waits
// for what it has not, that nothing happened.
func TestWaiters_FailAll(t *testing.T) {
	t.Parallel()
	ws := newWaiters(7)
	g := ws.add([][]byte{[]byte("a"), []byte("b")})
	ws.claim([]command{{origin: 7, seq: g.waiters[0].seq}}, 1)
	ws.failAll()
	if g.left != 0 || ws.count() != 0 || g.outcomes[0].err != ErrOutcomeUnknown || g.outcomes[1].err != ErrStopped {
		t.Errorf("%+v", g.outcomes)
	}
}

// Answers that are late are asked for ever more rarely, but for ever, and at once
// when somebody else leads.
func TestWaiters_Overdue_Doubles(t *testing.T) {
	t.Parallel()
	ws := newWaiters(7)
	w := ws.addOne([]byte("x"))
	queue := []command{{origin: 7, seq: w.seq, data: w.data}}
	ws.claim(queue, 0)
	var at []uint64
	for now := uint64(1); now < 800; now++ {
		if cmds := ws.overdue(now, 10); len(cmds) > 0 {
			at = append(at, now)
			ws.claim(cmds, now)
		}
	}
	if want := []uint64{10, 30, 70, 150, 310, 470, 630, 790}; !slices.Equal(at, want) {
		t.Errorf("repeated at %v, want %v", at, want)
	}
	if len(ws.handedOver()) != 1 || len(ws.handedOver()) != 0 {
		t.Error("a change of the leader repeats what is not queued, once")
	}
	ws.claim(queue, 800)
	if len(ws.overdue(809, 10)) != 0 || len(ws.overdue(810, 10)) != 1 {
		t.Error("after a change of the leader it is patient like before")
	}
}
