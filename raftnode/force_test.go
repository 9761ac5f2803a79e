package raftnode

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// survivors is a cluster of three that has put something, of which only the first
// is left, and what it has.
func survivors(t *testing.T) (*crashCluster, *crashNode, [][]byte) {
	t.Helper()
	c := newCrashCluster(t, 3, -1)
	c.run(6)
	n := c.nodes[1]
	list := n.sm.list()
	for _, n := range c.nodes {
		c.kill(n)
	}
	return c, n, list
}

// forceFrom is what a start with the flag would do.
func forceFrom(word string, cluster ID) *Forcing {
	return &Forcing{Word: word, At: time.Unix(1, 0).UTC(), Cluster: cluster, History: historyOfCluster(cluster)}
}

// historyOfCluster is the one history that a cluster has in these tests.
func historyOfCluster(cluster ID) (id historyID) {
	binary.BigEndian.PutUint64(id[:8], uint64(cluster))
	return id
}

// isAlone checks that a node is the only member of a cluster and has everything,
// when it has gone on for a while.
func isAlone(t *testing.T, n *crashNode, cluster ID, list [][]byte) {
	t.Helper()
	for range 100 {
		if err := n.round(true, nil); err != nil {
			t.Fatal(err)
		}
	}
	c, st := n.node.core, n.node.Status()
	if !c.isLeader() || len(c.members.members) != 1 || c.members.cluster != cluster || n.self.ClusterID != cluster || st.ClusterID != cluster || n.node.released != nil {
		t.Fatalf("leads: %v, leaves: %v, members %v of cluster %v; the identity says %v, the status %v", c.isLeader(), n.node.released != nil, c.members.list(), c.members.cluster, n.self.ClusterID, st.ClusterID)
	}
	if got := n.sm.list(); !slices.EqualFunc(got, list, bytes.Equal) {
		t.Fatalf("it has %q, want %q", got, list)
	}
	want := []historyID{historyOfCluster(9)}
	for _, f := range c.members.forced {
		want = append(want, historyOfCluster(f.Cluster))
	}
	if got := n.sm.histories(); !slices.Equal(got, want) {
		t.Fatalf("it went through the histories %v, want %v", got, want)
	}
}

// Wherever the power goes while a new cluster is forced, the next start finds all of
// it or nothing, whether it has the flag or not. So do the starts after that.
func TestForce_CrashAtEveryStep(t *testing.T) {
	for fatal := 0; ; fatal++ {
		c, n, list := survivors(t)
		c.steps, c.fatal = 0, fatal
		err := n.start(forceFrom(ForceOnce, 10))
		took := c.steps
		c.fatal = -1
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		n.sm.crash()
		n.boot(t)
		switch forced := n.self.ClusterID == 10; {
		case err == nil:
			if took > fatal {
				t.Fatal("no crash, and no error")
			}
			isAlone(t, n, 10, list)
			t.Logf("%d steps", took)
			return
		case !forced && fatal > 0, forced && fatal == 0:
			t.Fatalf("step %d: forced: %v", fatal, forced)
		case !forced:
			if m := n.node.core.members; m.cluster != 9 || len(m.members) != 3 || lastForced(n.disk.durable.entries) != 0 {
				t.Fatalf("half of it is done: %v", m)
			}
			continue
		}
		isAlone(t, n, 10, list)
		n.sm.sync()
		n.sm.crash()
		n.boot(t)
		isAlone(t, n, 10, list)
	}
}

// The entry may be on the disk and what commits it not; and the identity may be a
// copy from before, or one whose cluster was ended by another member.
func TestForce_Resumes(t *testing.T) {
	for name, damage := range map[string]func(n *crashNode, before diskState){
		"the commit index is lost": func(n *crashNode, before diskState) { n.disk.durable.state = before.state },
		"the identity is older":    func(n *crashNode, _ diskState) { n.self.ClusterID, n.self.Forced = 9, nil },
		"both": func(n *crashNode, before diskState) {
			n.disk.durable.state, n.self.ClusterID, n.self.Forced = before.state, 9, nil
		},
		"the state is newer than the identity": func(n *crashNode, _ diskState) {
			for range 100 {
				if err := n.round(true, nil); err != nil {
					panic(err)
				}
			}
			n.sm.sync()
			n.self.ClusterID, n.self.Forced = 9, nil
		},
		"its own cluster was ended before": func(n *crashNode, _ diskState) { n.self.ClusterID, n.self.Ended = 9, &Forcing{Cluster: 11} },
	} {
		t.Run(name, func(t *testing.T) {
			_, n, list := survivors(t)
			before := n.disk.durable
			if err := n.start(forceFrom(ForceOnce, 10)); err != nil {
				t.Fatal(err)
			}
			damage(n, before)
			n.sm.crash()
			n.boot(t)
			isAlone(t, n, 10, list)
			if len(n.self.Forced) != 1 || n.self.Ended != nil {
				t.Errorf("the identity does not know: %+v", n.self)
			}
		})
	}
}

// An identity of the new cluster does not fit the log of the old one.
func TestForce_OlderLog(t *testing.T) {
	_, n, _ := survivors(t)
	n.self.ClusterID, n.self.Forced = 10, []Forcing{{Word: ForceOnce, Parent: 9, Cluster: 10}}
	if err := n.start(nil); !errors.Is(err, errMixedUp) {
		t.Fatalf("started: %v", err)
	}
}

// Forcing once more makes another cluster, that knows of both.
func TestForce_Again(t *testing.T) {
	_, n, list := survivors(t)
	for i, word := range []string{ForceOnce, "AGAIN-2", "AGAIN-3"} {
		if err := n.start(forceFrom(word, ID(10+i))); err != nil {
			t.Fatal(err)
		}
		isAlone(t, n, ID(10+i), list)
		n.sm.sync()
	}
	forced := n.node.core.members.forced
	if len(forced) != 3 || forced[2].Parent != 11 || forced[2].Cluster != 12 || forced[2].By != "n1" || forced[2].Index == 0 || len(n.self.Forced) != 3 {
		t.Fatalf("%+v", forced)
	}
	for cluster, ended := range map[string]bool{"9": true, "a": true, "b": true, "c": false, "d": false, "": false} {
		if _, got := n.node.endedCluster(cluster); got != ended {
			t.Errorf("cluster %q has ended: %v", cluster, got)
		}
	}
}

// A member that the others were removed from goes on, and can be forced.
func TestForce_AfterRemovals(t *testing.T) {
	_, n, list := survivors(t)
	at := n.disk.durable.snapshot.Metadata.Index + uint64(len(n.disk.durable.entries))
	for i, m := range n.tables[1:] {
		cc, err := change{Op: opRemove, Member: m, Number: uint64(i) + 1}.confChange()
		if err != nil {
			t.Fatal(err)
		}
		data, err := cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		at++
		n.disk.durable.entries = append(n.disk.durable.entries, raftpb.Entry{Type: raftpb.EntryConfChange, Index: at, Term: n.disk.durable.state.Term, Data: data})
	}
	n.disk.durable.state.Commit = at
	n.boot(t)
	isAlone(t, n, 9, list)
	n.sm.crash()
	if err := n.start(forceFrom(ForceOnce, 10)); err != nil {
		t.Fatal(err)
	}
	isAlone(t, n, 10, list)
}

// A learner that is left gets its vote with the cluster.
func TestForce_Learner(t *testing.T) {
	_, n, list := survivors(t)
	_, _, metaBytes, _, err := n.sm.Durable()
	if err != nil {
		t.Fatal(err)
	}
	tab, err := decodeTable(metaBytes)
	if err != nil {
		t.Fatal(err)
	}
	self := tab.members[1]
	self.Learner, self.Promote = true, true
	tab.members[1] = self
	tab.conf = raftpb.ConfState{Voters: []uint64{2, 3}, Learners: []uint64{1}}
	if metaBytes, err = tab.encode(); err != nil {
		t.Fatal(err)
	}
	n.sm.durable.Meta, n.sm.now.Meta = metaBytes, metaBytes
	if err := n.start(forceFrom(ForceOnce, 10)); err != nil {
		t.Fatal(err)
	}
	isAlone(t, n, 10, list)
	if m := n.node.core.members.members[1]; m.Learner || m.Promote {
		t.Errorf("%+v", m)
	}
}

// Nobody but the node itself forces it, whoever asks.
func TestForce_BySomebodyElse(t *testing.T) {
	c, f := follower(t)
	leader := c.nodes[ID(f.node.core.lead)]
	forcing := forceFrom(ForceOnce, 666)
	forcing.Parent = 9
	cc, err := change{Op: opForce, Member: f.tables[f.id-1], Forcing: forcing}.confChange()
	if err != nil {
		t.Fatal(err)
	}
	data, err := cc.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	e := raftpb.Entry{Type: raftpb.EntryConfChange, Data: data}
	leader.node.core.step(raftpb.Message{Type: raftpb.MsgProp, From: uint64(f.id), To: uint64(leader.id), Entries: []raftpb.Entry{e}})
	last, err := f.node.core.log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	lastTerm, err := f.node.core.log.Term(last)
	if err != nil {
		t.Fatal(err)
	}
	e.Index, e.Term = last+1, f.node.core.term
	f.node.core.step(raftpb.Message{Type: raftpb.MsgApp, From: uint64(leader.id), To: uint64(f.id), Term: f.node.core.term, Index: last, LogTerm: lastTerm, Commit: last + 1, Entries: []raftpb.Entry{e}})
	for round := range 20 {
		c.roundAll(round)
	}
	for _, n := range c.nodes {
		if m := n.node.core.members; m.cluster != 9 || len(m.members) != 3 {
			t.Errorf("n%d belongs to %v with %v", n.id, m.cluster, m.list())
		}
	}
	if leader.node.dropped.count.Load() == 0 || f.node.dropped.count.Load() == 0 {
		t.Error("it was not dropped")
	}
}

// Data that never was forced looks as it always did.
func TestForce_FormatOfOthers(t *testing.T) {
	metaBytes, err := foundersTable(9, []Member{{ID: 1, Name: "n1"}}).encode()
	if err != nil {
		t.Fatal(err)
	}
	identityBytes, err := json.Marshal(identity{ID: 1, Name: "n1", ClusterID: 9})
	if err != nil {
		t.Fatal(err)
	}
	changeBytes, err := json.Marshal(change{Op: opRemove})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{metaBytes, identityBytes, changeBytes} {
		if bytes.Contains(b, []byte("forc")) || bytes.Contains(b, []byte("ended")) {
			t.Errorf("%s", b)
		}
	}
}

func TestForce_Words(t *testing.T) {
	for word, ok := range map[string]bool{"true": true, "AGAIN-2": true, "AGAIN-2026-11-30.b_c": true, "": false, "false": false, "AGAIN-": false, "again-2": false, "x AGAIN-2": false, "AGAIN-2\n": false} {
		if err := CheckForceWord(word); (err == nil) != ok {
			t.Errorf("%q: %v", word, err)
		}
	}
	forced := []Forcing{{Word: ForceOnce, By: "n1", Index: 7}, {Word: "AGAIN-2", By: "n2", Index: 99}}
	for word, at := range map[string]string{ForceOnce: "n1, at entry 7", "AGAIN-2": "n2, at entry 99", "AGAIN-3": "", "AGAIN-02": ""} {
		err := wordIsNew(forced, word)
		if at == "" && err != nil || at != "" && (err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "=AGAIN-3")) {
			t.Errorf("%q: %v", word, err)
		}
	}
	if wordIsNew(nil, ForceOnce) != nil || wordIsNew(nil, "AGAIN-2") != nil {
		t.Error("data that never was forced refuses a word")
	}
	if wordIsNew(forced[1:], ForceOnce) == nil {
		t.Error("the first word works although another one was used")
	}
}

// Only voters of this cluster count, and clusters that were forced out of it.
func TestForce_WhoAnswers(t *testing.T) {
	cfg := newTestNode(t, "n1").cfg
	n, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	n.self.ClusterID = 9
	voter := Member{ID: 2, Name: "n2"}
	learner := Member{ID: 2, Name: "n2", Learner: true}
	for what, c := range map[string]struct {
		table  Member // n2 as this node knows it
		answer introduction
		says   string
	}{
		"a voter":                    {voter, introduction{Name: "n2", ID: 2, ClusterID: 9}, "the voter n2 answers"},
		"a voter that knows itself":  {voter, introduction{Name: "n2", ID: 2, ClusterID: 9, Members: []Member{voter}}, "the voter n2 answers"},
		"a learner":                  {learner, introduction{Name: "n2", ID: 2, ClusterID: 9}, ""},
		"a learner that got a vote":  {learner, introduction{Name: "n2", ID: 2, ClusterID: 9, Members: []Member{voter}}, "the voter n2 answers"},
		"a new voter at its address": {voter, introduction{Name: "n7", ID: 7, ClusterID: 9, Members: []Member{{ID: 7, Name: "n7"}}}, "the voter n7 answers"},
		"one that has just joined":   {voter, introduction{Name: "n7", ID: 7, ClusterID: 9}, ""},
		"an emptied node":            {voter, introduction{Name: "n2", ID: 8}, ""},
		"another cluster":            {voter, introduction{Name: "n2", ID: 2, ClusterID: 5, Members: []Member{voter}}, ""},
		"this node":                  {voter, introduction{Name: "n1", ID: n.self.ID, ClusterID: 9, Members: []Member{{ID: n.self.ID, Name: "n1"}}}, ""},
		"one that was forced":        {voter, introduction{Name: "n2", ID: 2, ClusterID: 5, Forced: []Forcing{{Parent: 9, Cluster: 5}}}, "forced out of this one"},
		"an ancestor":                {voter, introduction{Name: "n2", ID: 2, ClusterID: 4, Forced: []Forcing{{Parent: 3, Cluster: 4}}}, ""},
		"no introduction":            {voter, introduction{}, ""},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, c.answer) }))
		c.table.PeerURL = srv.URL
		err := n.askVoters(t.Context(), foundersTable(9, []Member{{ID: n.self.ID, Name: "n1", PeerURL: cfg.PeerURL}, c.table}))
		srv.Close()
		_, refused := errors.AsType[*ForceError](err)
		if refused != (c.says != "") || refused && !strings.Contains(err.Error(), c.says) || err != nil && !refused {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Who is not asked is not lost.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.askVoters(ctx, foundersTable(9, []Member{voter})); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that was told to stop: %v", err)
	}
	if err := n.askVoters(t.Context(), foundersTable(9, []Member{{ID: 2, Name: "n2", PeerURL: "http://" + nobodyAt(t)}})); err != nil {
		t.Errorf("nobody answers: %v", err)
	}
}

// nobodyAt is an address at which nothing listens.
func nobodyAt(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// ended waits until a node's Run has returned.
func ended(t *testing.T, n *testNode) error {
	t.Helper()
	select {
	case err := <-n.errC:
		n.errC <- err
		return err
	case <-time.After(patience):
		t.Fatal("the node does not stop")
		return nil
	}
}

// A member that was left behind stops when it hears of the new cluster, as it starts
// or while it runs, and for good. It takes part in the new one as anybody else.
func TestForce_TheOthersStop(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	mustPropose(t, nodes[0], "before")
	sameLists(t, nodes, 1)
	for _, n := range nodes {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	survivor, starts, runs := nodes[0], nodes[1], nodes[2]
	survivor.cfg.ForceNewCluster = ForceOnce
	runs.start()
	eventually(t, "n3 takes part", func() bool { return runs.node.raftHTTP.Load() != nil })
	survivor.start()
	if err := ended(t, survivor); !strings.Contains(fmt.Sprint(err), "the voter n3 answers") {
		t.Fatalf("forced while n3 answers: %v", err)
	}
	_ = survivor.stop()
	// n3 cannot be asked: another program is at its address as far as n1 sees.
	runs.node.identity.Store(&identity{Name: "n3", ID: runs.node.self.ID})
	survivor.start()
	mustPropose(t, survivor, "after")
	runs.node.identity.Store(&runs.node.self)
	starts.start()
	for _, n := range []*testNode{starts, runs} {
		if err := ended(t, n); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), `"n1" forced a new cluster`) {
			t.Errorf("%s ended with %v", n.cfg.Name, err)
		}
		_ = n.stop()
	}
	if err := survivor.stop(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*testNode{starts, runs} {
		n.start()
		if err := ended(t, n); !errors.Is(err, ErrEnded) {
			t.Errorf("%s started again and ended with %v", n.cfg.Name, err)
		}
	}
	// The word is used up, and the data has what it had.
	survivor.start()
	if err := ended(t, survivor); !strings.Contains(fmt.Sprint(err), "done already") {
		t.Fatalf("forced again: %v", err)
	}
	_ = survivor.stop()
	if err := CheckForce(survivor.cfg.Dir, ForceOnce); err == nil {
		t.Error("the identity does not know")
	}
	survivor.cfg.ForceNewCluster = ""
	survivor.start()
	mustPropose(t, survivor, "on")
	sameLists(t, nodes[:1], 3)
}

// A node asks before it takes part, and believes nothing but that its own cluster has
// ended in the one that answers.
func TestForce_LookForEnd(t *testing.T) {
	for what, c := range map[string]struct {
		answer introduction
		ends   bool
	}{
		"a member of the new cluster":     {introduction{Name: "n2", ID: 2, ClusterID: 10, Forced: []Forcing{{Parent: 9, Cluster: 10, By: "n2"}}}, true},
		"one that joined it":              {introduction{Name: "n7", ID: 7, ClusterID: 11, Forced: []Forcing{{Parent: 9, Cluster: 10, By: "n2"}, {Parent: 10, Cluster: 11, By: "n7"}}}, true},
		"a member of this cluster":        {introduction{Name: "n2", ID: 2, ClusterID: 9}, false},
		"of this one, that was forced":    {introduction{Name: "n2", ID: 2, ClusterID: 9, Forced: []Forcing{{Parent: 8, Cluster: 9}}}, false},
		"of another one":                  {introduction{Name: "n2", ID: 2, ClusterID: 10}, false},
		"of another one, that was forced": {introduction{Name: "n2", ID: 2, ClusterID: 10, Forced: []Forcing{{Parent: 8, Cluster: 10}}}, false},
		"one that claims more than it is": {introduction{Name: "n2", ID: 2, ClusterID: 10, Forced: []Forcing{{Parent: 9, Cluster: 11, By: "n2"}}}, false},
		"an ancestor of this one":         {introduction{Name: "n2", ID: 2, ClusterID: 8, Forced: []Forcing{{Parent: 7, Cluster: 8}}}, false},
		"no introduction":                 {introduction{ClusterID: 10, Forced: []Forcing{{Parent: 9, Cluster: 10}}}, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, c.answer) }))
		n := newCrashCluster(t, 3, -1).nodes[1]
		n.node.client = srv.Client()
		for id, m := range n.node.core.members.members {
			m.PeerURL = "http://" + nobodyAt(t)
			if id == 3 {
				m.PeerURL = srv.URL
			}
			n.node.core.members.members[id] = m
		}
		err := n.node.lookForEnd(t.Context())
		srv.Close()
		if errors.Is(err, ErrEnded) != c.ends || err != nil && !c.ends {
			t.Errorf("%s: %v", what, err)
		}
		if (n.self.Ended != nil) != c.ends || c.ends && !strings.Contains(err.Error(), c.answer.Forced[0].By) {
			t.Errorf("%s: the identity has %+v, and %v", what, n.self.Ended, err)
		}
	}
}

// Messages of the cluster that has ended are refused in a way that rafthttp reports.
func TestForce_RefusesTheEnded(t *testing.T) {
	_, n, _ := survivors(t)
	if err := n.start(forceFrom(ForceOnce, 10)); err != nil {
		t.Fatal(err)
	}
	for cluster, status := range map[string]int{"9": http.StatusGone, "0000000000000009": http.StatusGone, "a": http.StatusServiceUnavailable, "b": http.StatusServiceUnavailable, "": http.StatusServiceUnavailable} {
		r := httptest.NewRequest(http.MethodGet, "/raft/stream/msgapp/2", nil)
		r.Header.Set(clusterIDHeader, cluster)
		w := httptest.NewRecorder()
		n.node.serveRaft(w, r)
		if w.Code != status || status == http.StatusGone && (w.Header().Get("X-Server-Version") == "" || !strings.Contains(w.Body.String(), "n1 forced a new cluster")) {
			t.Errorf("cluster %q: status %d, %q", cluster, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	n.node.serveIdentity(w, httptest.NewRequest(http.MethodGet, "/oncekv/identity", nil))
	var a introduction
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.ClusterID != 10 || len(a.Forced) != 1 || a.Founders != nil {
		t.Errorf("it says %s, %v", w.Body, err)
	}
}

// A learner of the cluster that has ended, which has no leader and sends nothing, hears
// of it all the same.
func TestForce_TheSilentStop(t *testing.T) {
	nodes := newTestCluster(t, 2, nil)
	mustPropose(t, nodes[0], "before")
	learner := joinNode(t, nodes[0], "n3", false)
	sameLists(t, append(nodes, learner), 1)
	survivor, voter := nodes[0], nodes[1]
	for _, n := range []*testNode{survivor, voter} {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	survivor.cfg.ForceNewCluster = ForceOnce
	survivor.start()
	mustPropose(t, survivor, "after")
	if err := ended(t, learner); !errors.Is(err, ErrEnded) {
		t.Errorf("the learner ended with %v", err)
	}
}

// A node that was refused and got no answer leaves, and asks on: it may still be a
// leader of the cluster that has ended.
func TestForce_AsksAgain(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	n.endings = make(chan *Forcing, 1)
	n.client = http.DefaultClient
	for id, m := range n.core.members.members {
		m.PeerURL = "http://" + nobodyAt(t)
		n.core.members.members[id] = m
	}
	var wg sync.WaitGroup
	for range 3 {
		n.askForEnd(t.Context(), &wg, errors.New("refused"))
		wg.Wait()
		if err := n.answered(t.Context(), nil, <-n.endings); err != nil || n.released == nil {
			t.Fatalf("nobody answered: %v, it leaves: %v", err, n.released != nil)
		}
	}
	n.askForEnd(t.Context(), &wg, errors.New("refused"))
	wg.Wait()
	<-n.endings
	if err := n.answered(t.Context(), nil, &Forcing{Parent: 9, Cluster: 10, By: "n2"}); !errors.Is(err, ErrEnded) {
		t.Errorf("it hears of the end while it leaves, and ends with %v", err)
	}
}

// A founder that never began, and whose ID is used up by now, is told how to come back.
func TestForce_FounderThatNeverBegan_IsToldToJoin(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	n.self.Name = "n3"
	forced := introduction{Name: "n2", ID: 2, ClientURL: "http://n2:2", ClusterID: 10, Forced: []Forcing{{Parent: 9, Cluster: 10, By: "n2"}}}
	_, _, err := n.consider([]introduction{forced}, false)
	if !errors.Is(err, ErrRefused) {
		t.Fatalf("it goes on: %v", err)
	}
	for _, says := range []string{"forced", "empty the data directory " + n.cfg.Dir, "--join http://n2:2"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// A node whose log holds its own removal must not remove all others and then,
// removed itself, tell people to empty the last copy of the data.
func TestNode_ForceNewCluster_OwnRemovalInTheLog(t *testing.T) {
	for commit := uint64(1); commit <= 2; commit++ {
		n := newCrashCluster(t, 3, -1).nodes[1]
		cc, err := change{Op: opRemove, Member: n.node.core.members.members[1], Number: 1}.confChange()
		if err != nil {
			t.Fatal(err)
		}
		data, err := cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		n.disk.durable.state.Commit = commit
		n.disk.durable.entries = []raftpb.Entry{{Type: raftpb.EntryConfChange, Term: 1, Index: 2, Data: data}, {Term: 1, Index: 3}}
		st := n.disk.durable
		st.entries = slices.Clone(st.entries)
		n.node.forcing = forceFrom(ForceOnce, 10)
		err = n.node.rebuild(context.Background(), st)
		if commit == 2 {
			if _, refused := errors.AsType[*ForceError](err); !refused || len(n.disk.durable.entries) != 2 {
				t.Fatalf("forced a new cluster of a removed node: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		// After the next power cut it is still the only member, and leads.
		n.sm.crash()
		n.boot(t)
		for range 100 {
			if err := n.round(true, nil); err != nil {
				t.Fatal(err)
			}
		}
		if c := n.node.core; !c.isLeader() || len(c.members.members) != 1 || n.node.released != nil {
			t.Fatalf("members %v, state %v, leaves: %v", c.members.list(), c.state, n.node.released != nil)
		}
	}
}
