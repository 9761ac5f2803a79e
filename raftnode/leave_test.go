package raftnode

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// A member that was removed stays until most of the other voters have stored
// that: of two, the other one cannot lead alone before, should it forget.
func TestNode_Removed_StaysUntilTheOthersHaveStoredIt(t *testing.T) {
	var stored atomic.Bool
	asked := make(chan struct{}, 100)
	answer := func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, introduction{Name: "n2", ID: 2, ClusterID: 9, Gone: r.URL.Query().Get("gone") == ID(1).String() && stored.Load()})
		select {
		case asked <- struct{}{}:
		default:
		}
	}
	voter, learner := httptest.NewServer(http.HandlerFunc(answer)), httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(voter.Close)
	t.Cleanup(learner.Close)
	n := &Node{self: identity{ID: 1, Name: "n1", ClusterID: 9}, logger: slog.New(slog.DiscardHandler), client: nodehttp.NewClient(nodehttp.Options{})}
	n.identity.Store(&n.self)
	n.status.Store(&Status{Members: []Member{{ID: 2, PeerURL: voter.URL}, {ID: 3, PeerURL: learner.URL, Learner: true}}})
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // after t.Context has ended
	n.leave(t.Context(), &running)
	for range 3 {
		<-asked
	}
	select {
	case <-n.released:
		t.Fatal("it left although nobody has stored its removal")
	default:
	}
	stored.Store(true)
	<-n.released
}

// What a node says about a removal is what is on its disk.
func TestNode_KnowsGone_FromDisk(t *testing.T) {
	tab := foundersTable(9, []Member{{ID: 1, Name: "n1"}, {ID: 2, Name: "n2"}})
	sm := &listSM{manual: true}
	metaBytes, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := sm.Bootstrap(1, 1, metaBytes, [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	n := &Node{sm: sm}
	knows := func() bool {
		return n.knowsGone(httptest.NewRequest(http.MethodGet, nodehttp.IdentityPath+"?gone="+ID(2).String(), nil))
	}
	tab.apply(change{Op: opRemove, Member: Member{ID: 2}}, confAfter(tab.conf, change{Op: opRemove, Member: Member{ID: 2}}))
	if metaBytes, err = tab.encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := sm.Apply(2, 1, nil, metaBytes); err != nil {
		t.Fatal(err)
	}
	if knows() {
		t.Error("it knows before that is on its disk")
	}
	sm.sync()
	if !knows() {
		t.Error("it does not know")
	}
}
