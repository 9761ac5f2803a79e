package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// tamper changes the first command that a node has stored.
func (n *testNode) tamper() {
	n.sm.mu.Lock()
	defer n.sm.mu.Unlock()
	for _, s := range []*listState{&n.sm.now, &n.sm.durable} {
		s.List = slices.Clone(s.List)
		s.List[0] = []byte("what nobody put")
	}
}

// sentences is a log that a test can look into.
type sentences struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (s *sentences) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *sentences) has(words string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), words)
}

// commandsAway are so many that the log is cut off before the last of them.
const commandsAway = 80

// behind runs a cluster in which one member that does not lead is away, with one
// command, until the log that it lacks is gone. Before that, lie is told who leads,
// who follows, and who will be away.
func behind(t *testing.T, size int, lie func(leader, away *testNode, others []*testNode)) (nodes []*testNode, leader, away *testNode, logged *sentences) {
	t.Helper()
	logged = &sentences{}
	nodes = newTestCluster(t, size, func(c *Config) {
		c.SnapshotLogBytes, c.KeepLogBytes = 4<<10, 1<<10
		c.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(logged, t.Output()), &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	mustPropose(t, nodes[0], "before")
	sameLists(t, nodes, 1)
	leader = leaderOf(t, nodes)
	var others []*testNode
	for _, n := range nodes {
		switch {
		case n == leader:
		case away == nil:
			away = n
		default:
			others = append(others, n)
		}
	}
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	lie(leader, away, others)
	pad := bytes.Repeat([]byte("x"), 8<<10)
	for i := range commandsAway {
		mustPropose(t, leader, fmt.Sprintf("%d-%s", i, pad))
	}
	eventually(t, "the log is compacted", func() bool {
		names, err := fileNames(walDir(leader.cfg.Dir), ".wal")
		return err == nil && len(names) > 0 && names[0] != "0000000000000000-0000000000000000.wal"
	})
	for _, n := range append(others, leader) {
		eventually(t, "the others have everything", func() bool { return len(n.sm.list()) == 1+commandsAway })
	}
	return nodes, leader, away, logged
}

// hasStopped reports whether a node has ended by itself.
func (n *testNode) hasStopped() bool {
	select {
	case <-n.node.Stopped():
		return true
	default:
		return false
	}
}

// running fails if a node has stopped.
func running(t *testing.T, nodes []*testNode) {
	t.Helper()
	for _, n := range nodes {
		if n.hasStopped() {
			t.Errorf("%s has stopped: %v", n.cfg.Name, n.stop())
		}
	}
}

// A member whose history is not that of the others cannot be brought up to date. It
// stops, and says that it is the one.
func TestNode_Diverged_AloneAndBehind_Stops(t *testing.T) {
	nodes, leader, away, _ := behind(t, 3, func(_, away *testNode, _ []*testNode) { away.tamper() })
	for range 2 { // a restart finds it again
		away.start()
		eventually(t, "it stops", func() bool { return away.hasStopped() })
		err := away.stop()
		if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "Replace "+away.cfg.Name+":") || strings.Contains(err.Error(), "Replace "+leader.cfg.Name) {
			t.Fatalf("it ended with %v", err)
		}
	}
	mustPropose(t, leader, "without it")
	running(t, slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == away }))
	if err := leader.node.JudgeHistory(context.Background(), 1+commandsAway); err != nil {
		t.Errorf("the others differ: %v", err)
	}
}

// Two against two: nobody can tell who is wrong, so nobody stops, and it is said.
func TestNode_Diverged_HalfOfTheVoters_NobodyStops(t *testing.T) {
	nodes, leader, away, logged := behind(t, 4, func(_, away *testNode, others []*testNode) {
		away.tamper()
		others[0].tamper()
	})
	away.start()
	eventually(t, "the member that is behind says that nobody can tell", func() bool { return logged.has("it is not known which of them are wrong") })
	mustPropose(t, leader, "go on")
	running(t, nodes)
	for _, n := range nodes {
		var dispute *DisputeError
		if err := n.node.JudgeHistory(context.Background(), 1); !errors.As(err, &dispute) || len(dispute.Wrong) > 0 {
			t.Errorf("%s judges: %v", n.cfg.Name, err)
		}
	}
}

// Two members, or a learner and its only voter: one word against another.
func TestNode_Diverged_OneAgainstOne_NobodyStops(t *testing.T) {
	one := newTestCluster(t, 1, nil)[0]
	mustPropose(t, one, "before")
	two := joinNode(t, one, "n2", false)
	sameLists(t, []*testNode{one, two}, 1)
	eventually(t, "both know both", func() bool { return len(two.node.Status().Members) == 2 })
	two.tamper()
	for _, voter := range []bool{false, true} {
		if voter {
			if err := one.node.PromoteMember(context.Background(), "n2"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "n2 votes", func() bool { return two.node.Status().Role == RoleFollower })
		}
		var dispute *DisputeError
		if err := two.node.JudgeHistory(context.Background(), 1); !errors.As(err, &dispute) || len(dispute.Wrong) > 0 {
			t.Errorf("n2 judges, voter %v: %v", voter, err)
		}
		err := one.node.JudgeHistory(context.Background(), 1)
		if !errors.As(err, &dispute) || voter == (len(dispute.Wrong) > 0) {
			t.Errorf("n1 judges, n2 votes %v: %v", voter, err)
		}
	}
}

// The leader is the one that is wrong. Who is behind pulls nothing from it, and names
// it; it finds out by asking at the position that this member stands at.
func TestNode_Diverged_Leader_FindsOut(t *testing.T) {
	_, leader, away, logged := behind(t, 3, func(leader, _ *testNode, _ []*testNode) { leader.tamper() })
	away.start()
	eventually(t, "the member that is behind names the leader", func() bool {
		return logged.has(leader.cfg.Name + " has another history than most voters")
	})
	if n := len(away.sm.list()); n != 1 {
		t.Errorf("it took over a history of %d commands", n)
	}
	running(t, []*testNode{away, leader})
	err := leader.node.JudgeHistory(context.Background(), leader.node.sm.Position())
	if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "Replace "+leader.cfg.Name+":") {
		t.Errorf("the leader judges: %v", err)
	}
}

// What does not look like the member's own answer counts for nothing.
func TestNode_History_StrangersCountForNothing(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	mustPropose(t, nodes[0], "x")
	sameLists(t, nodes, 1)
	get := func(n *testNode, path, cluster string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.cfg.PeerURL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(clusterHeader, cluster)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	cluster := nodes[0].node.Status().ClusterID.String()
	for path, want := range map[string]int{historyPath: 400, historyPath + "?position=x": 400, historyPath + "?position=18446744073709551615": 200, historyPath + "?position=0": 200} {
		if got := get(nodes[1], path, cluster); got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	if got := get(nodes[1], historyPath+"?position=1", "0000000000000001"); got != http.StatusPreconditionFailed {
		t.Errorf("another cluster: %d", got)
	}
	// n2 and n3 are the only ones that could outvote n1. Both addresses are one of
	// theirs: a member that answers in the place of another is nobody.
	members := slices.Clone(nodes[0].node.Status().Members)
	for i := range members {
		if members[i].Name == "n3" {
			members[i].PeerURL = nodes[1].cfg.PeerURL
		}
	}
	nodes[0].tamper()
	var dispute *DisputeError
	if err := nodes[0].node.judge(context.Background(), members, 1); !errors.As(err, &dispute) || !strings.Contains(err.Error(), "n3 does not answer") {
		t.Errorf("one member in two places: %v", err)
	}
	if err := nodes[0].node.JudgeHistory(context.Background(), 1); !errors.Is(err, ErrDiverged) {
		t.Errorf("both: %v", err)
	}
}

// A member that contradicts this one, and then says nothing more, is not to be pulled
// from all the same.
func TestNode_Diverged_SourceFallsSilent_IsNotPulledFrom(t *testing.T) {
	one := newTestCluster(t, 1, nil)[0]
	mustPropose(t, one, "x")
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(clusterHeader, one.node.Status().ClusterID.String())
		if asked.Add(1) > 1 {
			http.Error(w, "it is busy", http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, http.StatusOK, historyAnswer{ID: 9, Position: 1, Digest: "ff"})
	}))
	t.Cleanup(other.Close)
	source := Member{ID: 9, Name: "n9", PeerURL: other.URL}
	err := one.node.checkSource(context.Background(), append(slices.Clone(one.node.Status().Members), source), source)
	if err == nil || !strings.Contains(err.Error(), "n9 has another history") {
		t.Errorf("after %d questions: %v", asked.Load(), err)
	}
}
