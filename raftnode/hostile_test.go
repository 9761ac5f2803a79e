package raftnode

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

// post sends a message to a node as anybody can, and returns the answer's status.
func post(t *testing.T, n *testNode, m raftpb.Message) int {
	t.Helper()
	raw, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodPost, n.cfg.PeerURL+rafthttp.RaftPrefix, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"X-Server-From": fmt.Sprintf("%x", m.From), "X-Etcd-Cluster-ID": fmt.Sprintf("%x", uint64(n.node.Status().ClusterID)),
		"X-Server-Version": "3.5.0", "X-Min-Cluster-Version": "3.0.0",
	} {
		r.Header.Set(name, value)
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s does not answer: %v", n.cfg.Name, err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// wantAlive fails if a node has stopped, takes no put, or does not start again
// with what it has on disk.
func wantAlive(t *testing.T, nodes []*testNode, why string) {
	t.Helper()
	for _, n := range nodes {
		select {
		case <-n.node.Stopped():
			t.Fatalf("%s stops because of %s: %v", n.cfg.Name, why, n.stop())
		default:
		}
		mustPropose(t, n, why+" "+n.cfg.Name)
	}
}

func wantRestart(t *testing.T, nodes []*testNode) {
	t.Helper()
	for _, n := range nodes {
		if err := n.stop(); err != nil {
			t.Fatalf("%s: %v", n.cfg.Name, err)
		}
		n.start()
		eventually(t, n.cfg.Name+" follows again", func() bool {
			select {
			case <-n.node.Stopped():
				t.Fatalf("%s does not start again: %v", n.cfg.Name, n.stop())
			default:
			}
			return n.node.Status().Leader != 0
		})
	}
	wantAlive(t, nodes, "a restart")
}

// targetOf is what is known of a node from outside.
func targetOf(n *testNode, from ID) target {
	st := n.node.Status()
	v := target{self: uint64(st.ID), from: uint64(from), term: st.Term, last: st.Commit, commit: st.Commit, cluster: st.ClusterID}
	for _, m := range st.Members {
		v.conf.Voters = append(v.conf.Voters, uint64(m.ID))
	}
	return v
}

// Anybody who reaches the peer port can post messages in the name of any member,
// or in none. None of those that no honest member sends may stop a node, reach its
// log, or keep it from starting again.
func TestNode_Lies_AreDropped(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	wantAlive(t, nodes, "nothing")
	senders := []ID{1 << 40}
	for _, m := range nodes[0].node.Status().Members {
		senders = append(senders, m.ID)
	}
	for _, what := range slices.Sorted(maps.Keys(targetOf(nodes[0], 1).lies())) {
		for _, n := range nodes {
			for _, from := range senders {
				if from != n.node.ID() {
					post(t, n, targetOf(n, from).lies()[what])
				}
			}
		}
		wantAlive(t, nodes, what)
	}
	for _, n := range nodes {
		if term := n.node.Status().Term; term > 100 {
			t.Errorf("%s stands at term %d", n.cfg.Name, term)
		}
	}
	wantRestart(t, nodes)
}

// Each of the steps by which a term may rise is one that the next start accepts,
// and many of them do not add up to one that it does not.
func TestNode_TermsThatClimb_AreNoDamage(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	for _, step := range []uint64{1 << 20, 1<<24 - 1, 1 << 24, 1 << 31, 1 << 32, 1<<32 + 1, 1 << 40} {
		for range 5 {
			for _, n := range nodes {
				for _, m := range n.node.Status().Members {
					if m.ID != n.node.ID() {
						st := n.node.Status()
						post(t, n, raftpb.Message{Type: raftpb.MsgHeartbeat, From: uint64(m.ID), To: uint64(st.ID), Term: st.Term + step})
						post(t, n, raftpb.Message{Type: raftpb.MsgHeartbeat, From: uint64(m.ID), To: uint64(st.ID), Term: st.Term + 2*step})
					}
				}
			}
		}
		wantAlive(t, nodes, fmt.Sprintf("a step of %d", step))
	}
	wantRestart(t, nodes)
}

// A cluster of one, and a stranger.
func TestNode_Lies_ToTheOnlyMember(t *testing.T) {
	nodes := newTestCluster(t, 1, nil)
	for what, m := range targetOf(nodes[0], 77).lies() {
		post(t, nodes[0], m)
		wantAlive(t, nodes, what)
	}
	wantRestart(t, nodes)
}

// What is wrong whatever the state of the node is answered.
func TestNode_Lies_AreAnsweredAndCounted(t *testing.T) {
	nodes := newTestCluster(t, 1, nil)
	n := nodes[0]
	lies := targetOf(n, 77).lies()
	for _, what := range []string{"a message to another", "a message from oneself", "a heartbeat without a term", "no proposal", "a commit beyond all logs", "a local message: election"} {
		if status := post(t, n, lies[what]); status != http.StatusBadRequest {
			t.Errorf("%s is answered with %d", what, status)
		}
	}
	post(t, n, lies["the last term but one"]) // depends on the state, and is found out later
	eventually(t, "seven messages dropped", func() bool { return n.node.Figures().DroppedMessages == 7 })
}

// A wave of honest-looking and other messages leaves no node that is not heard
// of: whoever was removed from the table leaves nothing behind.
func TestCore_Strangers_AreNotRemembered(t *testing.T) {
	c := newCrashCluster(t, 3, -1)
	n := c.lead(t).node.core
	for from := uint64(100); from < 1100; from++ {
		n.step(raftpb.Message{Type: raftpb.MsgHeartbeat, From: from, To: uint64(n.id), Term: n.term})
		n.step(raftpb.Message{Type: raftpb.MsgReadIndex, From: from, To: uint64(n.id), Entries: []raftpb.Entry{{Data: make([]byte, readContextBytes)}}})
	}
	if len(n.heard) > 3 || n.dropped.count.Load() != 2000 {
		t.Errorf("%d are remembered, %d of 2000 messages dropped", len(n.heard), n.dropped.count.Load())
	}
}

// A snapshot that was invented, well enough to be believed, keeps a node from its
// own only until nobody has its data; and it does not stop the node.
func TestNode_InventedSnapshot_IsGivenUp(t *testing.T) {
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			nodes := newTestCluster(t, size, nil)
			n := nodes[0]
			members := foundersTable(n.node.Status().ClusterID, n.node.Status().Members)
			raw, err := members.encode()
			if err != nil {
				t.Fatal(err)
			}
			v := targetOf(n, n.node.Status().Leader)
			if v.from == v.self {
				v.from = 77
				if size > 1 { // it deposes the leader
					v.from = uint64(nodes[1].node.ID())
				}
			}
			pulling := func() (is bool) {
				if err := n.node.call(t.Context(), func(*core) { is = n.node.pulling }); err != nil {
					t.Fatalf("the node has stopped: %v", err)
				}
				return is
			}
			offer := raftpb.Message{Type: raftpb.MsgSnap, From: v.from, To: v.self, Term: v.term, Snapshot: raftpb.Snapshot{
				Metadata: raftpb.SnapshotMetadata{Index: v.last + 1000, Term: v.term, ConfState: members.conf},
				Data:     snapshotData{meta: raw, state: []byte("12345")}.encode(),
			}}
			if v.from != uint64(n.node.Status().Leader) {
				offer.Term++
			}
			if size == 1 { // a stranger is not believed here, and there is nobody to pull from
				n.node.inbox.addCall(func(c *core) { c.snaps = append(c.snaps, offer) })
			} else {
				post(t, n, offer)
				eventually(t, "the pull begins", pulling)
			}
			eventually(t, "the pull ends", func() bool { return !pulling() })
			wantAlive(t, nodes, "an invented snapshot")
		})
	}
}
