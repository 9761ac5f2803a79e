package raftnode

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// A node that joins must not take over the cluster ID of a stranger that uses
// a member's old address: the ID is on disk for ever.
func TestNode_Join_StrangerAtAMembersAddress(t *testing.T) {
	serve := func(a introduction) Member {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, a) }))
		t.Cleanup(s.Close)
		return Member{ID: a.ID, Name: a.Name, PeerURL: s.URL, ClientURL: s.URL}
	}
	gone, there := serve(introduction{Name: "n1", ID: 77, ClusterID: 70}), serve(introduction{Name: "n2", ID: 2, ClusterID: 9})
	gone.ID = 1
	n := newTestNode(t, "n3")
	n.cfg.Join = func(context.Context, Member) ([]Member, error) { return []Member{gone, there}, nil }
	node, err := Open(n.cfg, n.sm)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.join(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := node.self.ClusterID; got != 9 {
		t.Fatalf("joined cluster %v, want 9", got)
	}
}

// Whether a directory belongs to a cluster.
func TestBelongs(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}
	if is, err := Belongs(cfg.Dir); is || err != nil {
		t.Errorf("an empty one: %v, %v", is, err)
	}
	n, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	if is, err := Belongs(cfg.Dir); is || err != nil {
		t.Errorf("one that was opened: %v, %v", is, err)
	}
	if err := n.adopt(9, nil, nil); err != nil {
		t.Fatal(err)
	}
	if is, err := Belongs(cfg.Dir); !is || err != nil {
		t.Errorf("one that has joined: %v, %v", is, err)
	}
	if is, err := Belongs(cfg.Dir + "\x00"); is || err == nil {
		t.Errorf("one that cannot be read: %v, %v", is, err)
	}
}

// What a node tells of itself: the list that it would form a cluster of only as long as
// it has none and forms one, the founders only if they founded the cluster it has.
func TestNode_ServeIdentity(t *testing.T) {
	founders := testFounders(1)
	list := []Peer{{"n1", "http://n1:1"}}
	for what, c := range map[string]struct {
		id                identity
		join              bool
		initial, founders bool
	}{
		"it forms":       {identity{ID: 1}, false, true, false},
		"it joins":       {identity{ID: 1}, true, false, false},
		"it has founded": {identity{ID: 1, ClusterID: 9, Founders: founders}, false, false, true},
		"it has joined":  {identity{ID: 1, ClusterID: 9}, true, false, false},
		"it has forced":  {identity{ID: 1, ClusterID: 9, Founders: founders, Forced: []Forcing{{Parent: 8, Cluster: 9}}}, false, false, false},
	} {
		n := newCrashCluster(t, 1, -1).nodes[1].node
		n.cfg.InitialCluster = list
		if c.join {
			n.cfg.Join = func(context.Context, Member) ([]Member, error) { return nil, nil }
		}
		n.identity.Store(&c.id)
		n.forced.Store(&c.id.Forced)
		w := httptest.NewRecorder()
		n.serveIdentity(w, httptest.NewRequest("GET", nodehttp.IdentityPath, nil))
		var a introduction
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Initial) > 0 != c.initial || len(a.Founders) > 0 != c.founders || a.ClusterID != c.id.ClusterID || len(a.Forced) != len(c.id.Forced) {
			t.Errorf("%s: %+v", what, a)
		}
	}
}
