package raftnode

import (
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// An inbox wakes the loop for what it takes, and only for that.
func TestInbox_Wakes(t *testing.T) {
	t.Parallel()
	for what, add := range map[string]func(in *inbox){
		"a message":  func(in *inbox) { in.addMessage(raftpb.Message{}, 1<<10) },
		"a command":  func(in *inbox) { in.addCommands(1, newWaiters(1).add([][]byte{nil}), 1<<10) },
		"a read":     func(in *inbox) { in.addRead(newRead()) },
		"a call":     func(in *inbox) { in.addCall(nil) },
		"a lost one": func(in *inbox) { in.addLost(1) },
	} {
		in := newInbox()
		if add(in); len(in.wake) != 1 {
			t.Errorf("%s does not wake the loop", what)
		}
	}
	in := newInbox()
	in.addMessage(raftpb.Message{}, 1)
	in.addCommands(1, newWaiters(1).add([][]byte{nil}), 1)
	if len(in.wake) != 0 {
		t.Error("what was dropped wakes the loop")
	}
}

// Appends that nobody handles yet leave room for heartbeats, and nothing goes
// beyond that.
func TestInbox_Messages_AreBounded(t *testing.T) {
	t.Parallel()
	const limit = 100 << 10
	in := newInbox()
	entries := []raftpb.Entry{{Data: make([]byte, 1000)}}
	for range 10_000 {
		in.addMessage(raftpb.Message{Type: raftpb.MsgApp, Entries: entries}, limit)
	}
	appends := len(in.mail.msgs)
	for range 10_000 {
		in.addMessage(raftpb.Message{Type: raftpb.MsgHeartbeat}, limit)
	}
	for range 10_000 {
		in.addMessage(raftpb.Message{Type: raftpb.MsgSnap, Snapshot: raftpb.Snapshot{Data: make([]byte, 1000)}}, limit)
	}
	if rest := len(in.mail.msgs) - appends; appends < 50 || appends > 100 || rest < 50 || rest > 200 {
		t.Errorf("%d appends and %d others wait in %d bytes", appends, rest, limit)
	}
	if in.take(); in.msgBytes != 0 {
		t.Errorf("%d bytes are left in an empty inbox", in.msgBytes)
	}
}
