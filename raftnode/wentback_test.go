package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A state machine's file may lose its last transaction, on the strength of which the
// log before a snapshot is gone already. The others have the rest; a node that is
// alone says so.
func TestNode_StateWentBack(t *testing.T) {
	for _, size := range []int{1, 3} {
		nodes := newTestCluster(t, size, func(c *Config) { c.SnapshotLogBytes, c.KeepLogBytes = 4<<10, 1<<10 })
		leader := leaderOf(t, nodes)
		back := nodes[0]
		mustPropose(t, leader, "before")
		sameLists(t, nodes, 1)
		back.sm.mu.Lock()
		old := back.sm.durable.clone()
		back.sm.mu.Unlock()
		pad := bytes.Repeat([]byte("x"), 8<<10)
		for i := range 100 {
			mustPropose(t, leader, fmt.Sprintf("%d-%s", i, pad))
		}
		sameLists(t, nodes, 101)
		eventually(t, "a snapshot of the node itself", func() bool {
			names, err := fileNames(snapDir(back.cfg.Dir), ".snap")
			return err == nil && len(names) > 1
		})
		if err := back.stop(); err != nil {
			t.Fatal(err)
		}
		back.sm.durable = old
		back.sm.crash()
		back.start()
		if size > 1 {
			sameLists(t, nodes, 101)
			mustPropose(t, leaderOf(t, nodes), "after")
			sameLists(t, nodes, 102)
			continue
		}
		<-back.node.Stopped()
		if err := back.stop(); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "restore the data directory") {
			t.Fatalf("a node that is alone: %v", err)
		}
	}
}
