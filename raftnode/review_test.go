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
