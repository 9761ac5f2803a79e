package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// A configuration that cannot work is refused before anything is written.
func TestOpen_BadConfig(t *testing.T) {
	const url, other = "http://127.0.0.1:1", "http://127.0.0.1:2"
	for what, c := range map[string]struct {
		damage func(*Config)
		says   string
	}{
		"name":                   {func(c *Config) { c.Name = "a b" }, "name"},
		"no name":                {func(c *Config) { c.Name = "" }, "name"},
		"peer URL":               {func(c *Config) { c.PeerURL = "n1" }, "peer_url"},
		"no peer URL":            {func(c *Config) { c.PeerURL = "" }, "peer_url"},
		"client URL":             {func(c *Config) { c.ClientURL = "n1" }, "client_url"},
		"a member's name":        {func(c *Config) { c.InitialCluster = []Peer{{"n1", url}, {"a b", other}} }, "a b"},
		"a member's URL":         {func(c *Config) { c.InitialCluster = []Peer{{"n1", url}, {"n2", "n2"}} }, "n2"},
		"a name twice":           {func(c *Config) { c.InitialCluster = []Peer{{"n1", url}, {"n1", other}} }, "same name or URL"},
		"a URL twice":            {func(c *Config) { c.InitialCluster = []Peer{{"n1", url}, {"n2", url}} }, "same name or URL"},
		"the list lacks it":      {func(c *Config) { c.InitialCluster = []Peer{{"n2", other}} }, "does not name this node"},
		"the list has other URL": {func(c *Config) { c.InitialCluster = []Peer{{"n1", other}} }, "it advertises"},
	} {
		cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: url, ClientURL: url}
		c.damage(&cfg)
		if n, err := Open(cfg, &listSM{}); !errors.Is(err, ErrBadMember) || !strings.Contains(err.Error(), c.says) || n != nil {
			t.Errorf("%s: %v, %v", what, n, err)
		}
	}
	// A list counts for nothing if the node joins a cluster.
	join := func(context.Context, Member) ([]Member, error) { return nil, nil }
	cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: url, ClientURL: url, Join: join, InitialCluster: []Peer{{"n2", other}}}
	if _, err := Open(cfg, &listSM{}); err != nil {
		t.Errorf("a node that joins: %v", err)
	}
}

// What the identity's file says is not passed over.
func TestOpen_BadIdentity(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(identityPath(dir), []byte("no identity"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Open(Config{Dir: dir, Name: "n1", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}, &listSM{}); err == nil || n != nil {
		t.Errorf("opened with %v, %v", n, err)
	}
}

// What is not configured has a default, and what is configured stays.
func TestConfig_Defaults(t *testing.T) {
	t.Parallel()
	mute := slog.New(slog.DiscardHandler)
	for _, c := range []struct{ given, want Config }{
		{Config{}, Config{Tick: 100 * time.Millisecond, ProposeTimeout: 10 * time.Second, NoLeaderTimeout: 3 * time.Second, SnapshotLogBytes: 16 << 20, KeepLogBytes: 16 << 20, QueueBytes: 64 << 20}},
		{Config{Tick: 1, SnapshotLogBytes: 4, Logger: mute}, Config{Tick: 1, ProposeTimeout: 10 * time.Second, NoLeaderTimeout: 3 * time.Second, SnapshotLogBytes: 4, KeepLogBytes: 16 << 20, QueueBytes: 64 << 20}},
	} {
		logger, synced := c.given.Logger, false
		c.given.sync = func(string) error { synced = true; return nil }
		c.given.setDefaults()
		if g, w := c.given, c.want; g.Tick != w.Tick || g.ProposeTimeout != w.ProposeTimeout || g.NoLeaderTimeout != w.NoLeaderTimeout ||
			g.SnapshotLogBytes != w.SnapshotLogBytes || g.KeepLogBytes != w.KeepLogBytes || g.QueueBytes != w.QueueBytes {
			t.Errorf("%+v, want %+v", g, w)
		}
		if c.given.Logger == nil || logger != nil && c.given.Logger != logger {
			t.Error("the logger was replaced")
		}
		if _ = c.given.sync(""); !synced {
			t.Error("the fsync was replaced")
		}
	}
}

// A member that was moved may be started without a peer URL: it tells others the one
// that they know it by.
func TestNode_PeerURL_AsOthersKnowIt(t *testing.T) {
	n := newTestCluster(t, 1, nil)[0]
	url := n.cfg.PeerURL
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.cfg.PeerURL, n.cfg.InitialCluster = "", nil
	n.cfg.ClientURL = "HTTP://127.0.0.1:1/"
	n.start()
	mustPropose(t, n, "x")
	if got := n.node.peerURL(); got != url {
		t.Errorf("it says that it is reached at %s, but others know %s", got, url)
	}
	if got := n.node.cfg.ClientURL; got != "http://127.0.0.1:1" {
		t.Errorf("client URL %s", got)
	}
}

// A node that was removed, and whose peer URL is not configured, is known by nobody.
func TestNode_PeerURL_OfNobody(t *testing.T) {
	n := newCrashCluster(t, 3, -1).nodes[1].node
	n.cfg.ClientURL = "http://client:1"
	if got := n.peerURL(); got != "http://h1:1" {
		t.Errorf("a member: %s", got)
	}
	m := n.core.members.members[1]
	m.PeerURL = "no URL"
	n.core.members.members[1] = m
	if got := n.peerURL(); got != n.cfg.ClientURL {
		t.Errorf("a member at no URL: %s", got)
	}
	delete(n.core.members.members, 1)
	if got := n.peerURL(); got != n.cfg.ClientURL {
		t.Errorf("no member: %s", got)
	}
}

// An error of a start ends Run, and is told. So is one that comes while the node is
// told to stop, not.
func TestNode_Run_StartFails(t *testing.T) {
	url := "http://127.0.0.1:1"
	cause := errors.New("nobody is there")
	fail := func(context.Context, Member) ([]Member, error) { return nil, cause }
	for what, c := range map[string]struct {
		prepare func(n *Node)
		want    string
	}{
		"it joins nobody":      {func(n *Node) { n.cfg.Join = fail }, "nobody is there"},
		"its state is unknown": {func(n *Node) { n.sm = brokenSM{&listSM{}} }, "no state"},
		"a transport at no URL": {func(n *Node) {
			f := founder{Member{ID: n.self.ID, Name: "n1", PeerURL: url, ClientURL: url}, n.self.Birth}
			if err := n.adopt(historyOf([]founder{f}).cluster(), []founder{f}, nil); err != nil {
				t.Error(err)
			}
			n.cfg.PeerURL = "what://"
		}, "start the peer transport"},
		"the cluster was ended once": {func(n *Node) { n.self.Ended = &Forcing{By: "n2", Cluster: 7} }, "has ended"},
	} {
		t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
			n, err := Open(Config{Dir: t.TempDir(), Name: "n1", PeerURL: url, ClientURL: url}, &listSM{})
			if err != nil {
				t.Fatal(err)
			}
			c.prepare(n)
			if err := n.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ended with %v", err)
			}
			if _, err := n.proposeOne(t.Context(), []byte("x")); !errors.Is(err, ErrStopped) {
				t.Errorf("a proposal to what has ended: %v", err)
			}
			if err := n.ReadIndex(t.Context()); !errors.Is(err, ErrStopped) {
				t.Errorf("a read of what has ended: %v", err)
			}
		})
	}
}

// brokenSM is a state machine that cannot say where it stands.
type brokenSM struct{ *listSM }

func (brokenSM) Durable() (uint64, uint64, []byte, []byte, error) {
	return 0, 0, nil, nil, errors.New("no state")
}

// A node that is told to stop while it starts has not failed.
func TestNode_Run_ToldToStop(t *testing.T) {
	url := "http://127.0.0.1:1"
	ctx, stop := context.WithCancel(t.Context())
	cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: url, ClientURL: url, Join: func(context.Context, Member) ([]Member, error) {
		stop()
		return nil, errors.New("too late")
	}}
	n, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(ctx); err != nil {
		t.Errorf("while it joined: %v", err)
	}
	cfg.Join = nil
	if n, err = Open(cfg, &listSM{}); err != nil {
		t.Fatal(err)
	}
	n.sm = brokenSM{&listSM{}}
	if err := n.Run(ctx); err != nil {
		t.Errorf("while it opened its log: %v", err)
	}
}

// A node asks at its start whether its cluster was ended meanwhile. Then it takes no
// part, and says so.
func TestNode_Run_ClusterHasEnded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch a := (introduction{Name: "n2", ID: 2, ClientURL: "http://n2:1", ClusterID: 9}); {
		case r.URL.Path != nodehttp.IdentityPath:
			http.NotFound(w, r)
		case asked.Add(1) == 1: // when it joins
			writeJSON(w, http.StatusOK, a)
		default:
			a.ClusterID, a.Forced = 10, []Forcing{{Parent: 9, Cluster: 10, By: "n2"}}
			writeJSON(w, http.StatusOK, a)
		}
	}))
	defer srv.Close()
	cfg := Config{Dir: t.TempDir(), Name: "n1", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1", Join: func(context.Context, Member) ([]Member, error) {
		return []Member{{ID: 2, Name: "n2", PeerURL: srv.URL, ClientURL: "http://n2:1"}}, nil
	}}
	n, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(ctx); !errors.Is(err, ErrEnded) {
		t.Errorf("ended with %v", err)
	}
}
