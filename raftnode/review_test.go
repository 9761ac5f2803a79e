package raftnode

import (
	"context"
	"testing"
)

// A bug in the loop must end the process, as everywhere else: a Run that
// returned nil would leave a node that serves and never does anything.
func TestNode_BugInTheLoop_IsNotSwallowed(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.inbox.addCall(func(*core) { panic("a bug") })
	defer func() {
		if p := recover(); p != "a bug" {
			t.Fatalf("recovered %v, want the bug", p)
		}
	}()
	err := n.loop(context.Background(), nil, nil, nil)
	t.Fatalf("the loop ended with %v", err)
}

// A call that gives up while its command is on the way into raft must not
// answer that nothing happened.
func TestWaiters_GiveUpDuringHandover_IsUnknown(t *testing.T) {
	ws := newWaiters(7)
	w := ws.add([]byte("x"))
	queue := []command{{origin: 7, seq: w.seq, data: w.data}}
	if got := ws.claim(queue, 1); len(got) != 1 {
		t.Fatalf("claimed %d commands, want 1", len(got))
	}
	if !ws.drop(w) {
		t.Fatal("dropped as never handed over, but raft gets it now")
	}
	if got := ws.claim(queue, 2); len(got) != 0 {
		t.Fatal("handed over although nobody waits")
	}
	// What raft refused was never handed over.
	w = ws.add([]byte("y"))
	ws.unclaim(ws.claim([]command{{origin: 7, seq: w.seq, data: w.data}}, 3))
	if ws.drop(w) {
		t.Fatal("refused by raft, but counts as handed over")
	}
}
