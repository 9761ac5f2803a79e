package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/adminui"
	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

func startAdmin(t *testing.T, nodes ...string) *server.Admin {
	t.Helper()
	a, err := server.StartAdmin(context.Background(), server.AdminConfig{Listen: "127.0.0.1:0", Nodes: nodes, Logger: clustertest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := a.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return a
}

// states reads an admin's event stream; next returns one state after another.
func states(t *testing.T, a *server.Admin) (next func() adminui.State) {
	t.Helper()
	req, err := http.NewRequestWithContext(clustertest.WithTimeout(t), http.MethodGet, a.URL()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() (s adminui.State) {
		t.Helper()
		for lines.Scan() {
			data, ok := bytes.CutPrefix(lines.Bytes(), []byte(`data: {"time"`))
			if !ok {
				continue
			}
			if err := json.Unmarshal(append([]byte(`{"time"`), data...), &s); err != nil {
				t.Fatal(err)
			}
			return s
		}
		t.Fatalf("the stream of events ended: %v", lines.Err())
		return s
	}
}

// From one database node the admin finds all nodes and shows each change of state.
func TestAdmin_FollowsACluster(t *testing.T) {
	c := clustertest.Start(t, 3, 2)
	a := startAdmin(t, c.DBs[1].URL())
	next := states(t, a)
	until := func(what string, ok func(adminui.State) bool) adminui.State {
		t.Helper()
		for deadline := time.Now().Add(clustertest.Patience); ; {
			s := next()
			if ok(s) {
				return s
			}
			if time.Now().After(deadline) {
				t.Fatalf("waited for %s: %+v", what, s)
			}
		}
	}
	s := until("all nodes", func(s adminui.State) bool {
		return len(s.Members) == 3 && len(s.Caches) == 2 && s.Health.Level == adminui.LevelOK
	})
	if a.Ready(context.Background()) != nil || s.Leader == "" {
		t.Errorf("ready %v, state %+v", a.Ready(context.Background()), s)
	}

	to := "n1"
	if s.Leader == to {
		to = "n2"
	}
	code, body := send(t, http.MethodPost, a.URL()+"/api/leader", fmt.Sprintf(`{"to":%q}`, to))
	if code != http.StatusOK {
		t.Fatalf("transfer: %d %s", code, body)
	}
	until("the new leader "+to, func(s adminui.State) bool { return s.Leader == to })

	if code, body := send(t, http.MethodPut, a.URL()+"/api/key?key=a", "v"); code != http.StatusCreated {
		t.Fatalf("put: %d %s", code, body)
	}
	until("the put", func(s adminui.State) bool { return s.Keys == 1 && s.Revision == 1 })

	if err := c.Caches[1].Close(context.Background()); err != nil { // says goodbye
		t.Fatal(err)
	}
	s = until("a cache node that has left", func(s adminui.State) bool { return s.Caches[1].Left && s.Health.Level == adminui.LevelOK })
	if s.Caches[1].Status != adminui.StatusDown || s.Caches[0].Share < 0.99 {
		t.Errorf("caches %+v, health %+v", s.Caches, s.Health)
	}
	if err := c.DBs[2].Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	s = until("a node down", func(s adminui.State) bool {
		return s.Members[2].Status == adminui.StatusDown && s.Health.Level == adminui.LevelWarning && strings.HasPrefix(s.Health.Sentence, "n3 is down")
	})
	if code, body := send(t, http.MethodPut, a.URL()+"/api/key?key=b", "v"); code != http.StatusCreated {
		t.Errorf("put with a node down: %d %s", code, body)
	}
}

// The admin names the owner of a key that the cache nodes use.
func TestAdmin_OwnerIsTheOneThatLoads(t *testing.T) {
	c := clustertest.Start(t, 1, 2)
	a := startAdmin(t, c.DBs[0].URL())
	clustertest.Eventually(t, "both cache nodes", func() error {
		_, body := fetch(t, a.URL()+"/caches")
		if strings.Count(body, `"healthy":true`) != 2 {
			return fmt.Errorf("%s", body)
		}
		for _, n := range c.Caches {
			if _, stats := fetch(t, n.URL()+"/stats"); !strings.Contains(stats, `"peers":1`) {
				return fmt.Errorf("%s: %s", n.Name(), stats)
			}
		}
		return nil
	})
	owned := map[string]int{}
	for i := range 20 {
		key := fmt.Sprintf("key %d/ü", i)
		clustertest.Eventually(t, key+" comes from its owner", func() error {
			key += "+" // a new key: a cache node keeps what it has loaded
			owner := ownerOf(t, a, key)
			if _, err := c.Client(t).PutBytes(clustertest.WithTimeout(t), key, []byte("v"), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.Caches {
				if n.URL() == owner.URL {
					continue
				}
				from := source(t, n.URL(), key)
				if from == "peer" {
					owned[owner.Name]++
					continue
				}
				if _, stats := fetch(t, n.URL()+"/stats"); from != "load" || strings.Contains(stats, `"peer_errors":0,`) {
					t.Fatalf("%s, owned by %s, came to %s from %q", key, owner.Name, n.Name(), from)
				}
				return errors.New("the owner was silent for half a second, and is passed over until it answers")
			}
			return nil
		})
	}
	if len(owned) != 2 {
		t.Errorf("owners %v", owned)
	}
}

func ownerOf(t *testing.T, a *server.Admin, key string) (owner api.Owner) {
	t.Helper()
	resp, err := http.Get(a.URL() + "/owner?key=" + url.QueryEscape(key))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&owner); err != nil {
		t.Fatal(err)
	}
	return owner
}

// source reads a key at a cache node and returns where the answer came from.
func source(t *testing.T, node, key string) string {
	t.Helper()
	resp, err := http.Get(node + "/key?key=" + url.QueryEscape(key))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.Header.Get(api.HeaderCache)
}

func send(t *testing.T, method, target, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// An admin without a cluster serves its page, says what it waits for, and ends its streams
// when it stops.
func TestAdmin_WithoutACluster(t *testing.T) {
	nobody := clustertest.FreeAddr(t)
	a := startAdmin(t, "http://"+nobody)
	next := states(t, a)
	if s := next(); s.Health.Level != adminui.LevelUnknown || !strings.Contains(s.Health.Problems[0], nobody) {
		t.Errorf("health %+v", s.Health)
	}
	if code, body := fetch(t, a.URL()+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no database node") {
		t.Errorf("ready: %d %s", code, body)
	}
	if code, _ := fetch(t, a.URL()+"/"); code != http.StatusOK {
		t.Errorf("the page: %d", code)
	}
	if code, body := fetch(t, a.URL()+"/api/key?key=a"); code != http.StatusServiceUnavailable || !strings.Contains(body, nobody) {
		t.Errorf("a key: %d %s", code, body)
	}
	if code, body := fetch(t, a.URL()+"/metrics"); code != http.StatusOK || !strings.Contains(body, "oncekv_admin_members 0") {
		t.Errorf("metrics: %d %.200s", code, body)
	}
	began := time.Now()
	if err := a.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > closeMax {
		t.Errorf("an admin with a reader took %v to stop", took)
	}
}
