package cachetier

import (
	"errors"
	"net/http"
	"testing"

	"github.com/Focinfi/oncekv/kvstore"
)

func TestNew_RefusesBadConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []NodeConfig{
		{}, {Name: "c", URL: "http://c"}, {Name: "c", URL: "c", Nodes: []string{"http://n"}}, {Name: "c", URL: "http://c", Nodes: []string{"n"}},
		{Name: "c", URL: "http://c/path", Nodes: []string{"http://n"}}, {Name: "c", URL: "http://c", Nodes: []string{"http://n"}, CacheBytes: -1},
		{URL: "http://c", Nodes: []string{"http://n"}}, {Name: "a b", URL: "http://c", Nodes: []string{"http://n"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) is fine", cfg)
		}
	}
}

func TestNode_Close_EndsLoadsAndWaits(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	entered := make(chan struct{})
	db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		close(entered)
		<-r.Context().Done()
		return true
	})
	result := make(chan error, 1)
	go func() {
		_, _, err := n.Get(t.Context(), "k", kvstore.Linearizable)
		result <- err
	}()
	receive(t, "the load", entered)
	n.Close()
	if err := receive(t, "the caller", result); err == nil {
		t.Error("a load outlived Close")
	}
	if _, _, err := n.Get(t.Context(), "k", kvstore.Linearizable); !errors.Is(err, kvstore.ErrClosed) {
		t.Errorf("get after Close: %v", err)
	}
}
