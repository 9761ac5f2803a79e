package raftnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// testFounders are n1, n2 and so on.
func testFounders(size int) (founders []founder) {
	for id := ID(1); id <= ID(size); id++ {
		founders = append(founders, founder{
			Member{ID: id, Name: fmt.Sprintf("n%d", id), PeerURL: fmt.Sprintf("http://h%d:1", id), ClientURL: fmt.Sprintf("http://h%d:2", id)},
			birth{Nonce: nonce{byte(id)}, Level: 1},
		})
	}
	return founders
}

// someState is what a backup could have been.
func someState(seed byte) origin {
	return origin{History: historyID{seed}, Revision: 7, Head: strings.Repeat("ab", 32)}
}

// All founders derive one id from what never changes of them, and any other founders
// another one.
func TestHistoryOf(t *testing.T) {
	founders := testFounders(3)
	want := historyOf(founders)
	if want == (historyID{}) || want.cluster() == 0 {
		t.Fatalf("it names nothing: %v", want)
	}
	slices.Reverse(founders)
	founders[1].ClientURL = "http://elsewhere:2" // it may be another one at each start
	if got := historyOf(founders); got != want {
		t.Errorf("in another order: %v, want %v", got, want)
	}
	seen := map[historyID]string{want: "the same"}
	for what, change := range map[string]func(f *founder){
		"name": func(f *founder) { f.Name = "m1" }, "id": func(f *founder) { f.ID = 9 }, "peer URL": func(f *founder) { f.PeerURL = "http://h1:11" },
		"nonce": func(f *founder) { f.Birth.Nonce[15]++ }, "level": func(f *founder) { f.Birth.Level = 2 },
		"history": func(f *founder) { f.Birth.Restored.History[0]++ }, "revision": func(f *founder) { f.Birth.Restored.Revision++ }, "head": func(f *founder) { f.Birth.Restored.Head = "00" },
	} {
		founders := testFounders(3)
		change(&founders[0])
		got := historyOf(founders)
		if as := seen[got]; as != "" {
			t.Errorf("another %s makes the history of %s", what, as)
		}
		seen[got] = "another " + what
	}
	if got := historyOf(testFounders(2)); seen[got] != "" {
		t.Errorf("two founders make the history of %s", seen[got])
	}
	if zero := (historyID{}).named(); zero.cluster() == 0 {
		t.Error("a cluster may have no id")
	}
}

// What comes from others is checked before it is written down.
func TestIntroduction_Check_Founders(t *testing.T) {
	one := testFounders(1)[0]
	fresh := func(b birth) introduction {
		return introduction{Name: "n1", ID: 1, ClientURL: one.ClientURL, Birth: b}
	}
	formed := func(change func(fs []founder) []founder) introduction {
		founders := change(testFounders(3))
		return introduction{Name: "n1", ID: 1, ClientURL: one.ClientURL, ClusterID: historyOf(founders).cluster(), Founders: founders}
	}
	with := func(r origin) birth { return birth{Nonce: nonce{1}, Level: 1, Restored: r} }
	long := someState(1)
	long.Head = strings.Repeat("ab", headBytesMax+1)
	upper := someState(1)
	upper.Head = strings.ToUpper(upper.Head)
	other := formed(slices.Clip[[]founder])
	other.ClusterID++
	for what, c := range map[string]struct {
		a    introduction
		says string
	}{
		"a founder":               {fresh(one.Birth), ""},
		"one that was restored":   {fresh(with(someState(1))), ""},
		"of an older version":     {fresh(birth{}), "from before the first release"},
		"without a nonce":         {fresh(birth{Level: 1}), "nonce"},
		"without a level":         {fresh(birth{Nonce: nonce{1}}), "level"},
		"from nowhere":            {fresh(with(origin{Revision: 7, Head: "ab"})), "restored from"},
		"without a head":          {fresh(with(origin{History: historyID{1}, Revision: 7})), "restored from"},
		"with a long head":        {fresh(with(long)), "restored from"},
		"with a head that is two": {fresh(with(upper)), "restored from"},
		"formed":                  {formed(slices.Clip[[]founder]), ""},
		"formed by others":        {other, "founders of another one"},
		"out of order":            {formed(func(fs []founder) []founder { slices.Reverse(fs); return fs }), "not in its place"},
		"one founder twice":       {formed(func(fs []founder) []founder { return append(fs, fs[2]) }), "twice"},
		"one id twice":            {formed(func(fs []founder) []founder { fs[2].ID = 1; return fs }), "twice"},
		"a founder without URL":   {formed(func(fs []founder) []founder { fs[1].PeerURL = "h2"; return fs }), "peer_url"},
		"founders that disagree":  {formed(func(fs []founder) []founder { fs[1].Birth = with(someState(1)); return fs }), "n1 was empty when it was started first, and that of n2 was restored"},
	} {
		err := c.a.check(one.PeerURL)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A node tells what it brings as long as it belongs to no cluster.
func TestNode_ServeIdentity_Birth(t *testing.T) {
	n, err := Open(newTestNode(t, "n1").cfg, &listSM{from: someState(3)})
	if err != nil {
		t.Fatal(err)
	}
	tells := func() (a introduction) {
		w := httptest.NewRecorder()
		n.serveIdentity(w, httptest.NewRequest("GET", nodehttp.IdentityPath, nil))
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := tells(); a.Birth != n.self.Birth || a.Birth.Restored != someState(3) || a.Birth.check() != nil {
		t.Errorf("it tells %+v", a.Birth)
	}
	if err := n.adopt(9, nil, nil); err != nil {
		t.Fatal(err)
	}
	if a := tells(); a.Birth != (birth{}) {
		t.Errorf("a member tells %+v", a.Birth)
	}
}

// What a node brings is frozen by its first start. Later ones are refused when it is not
// so any more, with a sentence, and change nothing.
func TestOpen_Birth_IsFrozen(t *testing.T) {
	frozen := func(t *testing.T, from origin, change func(id *identity)) Config {
		cfg := newTestNode(t, "n1").cfg
		if _, err := Open(cfg, &listSM{from: from}); err != nil {
			t.Fatal(err)
		}
		id, err := loadIdentity(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		change(&id)
		if err := id.save(cfg.Dir, fsync.Sync); err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	same := func(*identity) {}
	cluster := historyOf(testFounders(2)).cluster()
	founded := func(level uint64) func(id *identity) {
		return func(id *identity) {
			founders := testFounders(2)
			founders[0].Birth.Level, founders[1].Birth.Level = level, 5
			id.ClusterID, id.Founders = historyOf(founders).cluster(), founders
		}
	}
	for what, c := range map[string]struct {
		then   origin
		change func(id *identity)
		now    origin
		says   string
	}{
		"empty":                        {origin{}, same, origin{}, ""},
		"restored":                     {someState(1), same, someState(1), ""},
		"restored behind its back":     {origin{}, same, someState(1), "is restored from history 01000000000000000000000000000000 at revision 7 (abababababababab…), but it was empty"},
		"restored from something else": {someState(1), same, someState(2), "but it was restored from history 0100"},
		"emptied":                      {someState(1), same, origin{}, "is empty, but it was restored from history 0100"},
		"restored under a member":      {origin{}, func(id *identity) { id.ClusterID, id.Started = cluster, true }, someState(1), "is a member of cluster"},
		"of a later version":           {origin{}, func(id *identity) { id.Birth.Level = 2 }, origin{}, "(level 2); this program knows up to 1"},
		"it may join":                  {origin{}, func(id *identity) { id.Birth.Level, id.ClusterID = 2, 9 }, origin{}, ""},
		"founders of later versions":   {origin{}, founded(3), origin{}, "(level 3); this program knows up to 1"},
		"founders of several versions": {origin{}, founded(1), origin{}, ""},
	} {
		t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
			cfg := frozen(t, c.then, c.change)
			before := contents(t, cfg.Dir)
			n, err := Open(cfg, &listSM{from: c.now})
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Fatalf("opened with %v", err)
			}
			if err == nil && n.self.Birth.Restored != c.then {
				t.Errorf("it brings %+v", n.self.Birth)
			}
			if contents(t, cfg.Dir) != before {
				t.Error("the directory is another one")
			}
			var later *level.LaterError
			if errors.As(err, &later) != strings.Contains(c.says, "level") {
				t.Errorf("a version has nothing to do with it: %v", err)
			}
		})
	}
	cfg := newTestNode(t, "n1").cfg
	one, err := Open(cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Open(cfg, &listSM{})
	if err != nil || again.self.Birth != one.self.Birth {
		t.Errorf("the next start brings %+v, and the first %+v: %v", again.self.Birth, one.self.Birth, err)
	}
	if other, err := Open(newTestNode(t, "n1").cfg, &listSM{}); err != nil || other.self.Birth.Nonce == one.self.Birth.Nonce {
		t.Errorf("two nodes have one nonce: %v", err)
	}
}

// contents is all that is in a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var b []byte
			b, err = os.ReadFile(filepath.Join(dir, path))
			fmt.Fprintf(&all, "%s: %q\n", path, b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Directories of versions from before the first release, and of later ones, are refused
// with a sentence that says what to do, and are left as they are.
func TestOpen_OtherFormats(t *testing.T) {
	for what, c := range map[string]struct{ identity, says string }{
		"before the first release": {`{"format":1,"name":"n1","id":"0000000000000001","cluster_id":"0000000000000009","started":true}`, "from before the first release, which this program cannot read: serve it with the program that wrote it and move its keys"},
		"later":                    {`{"format":3,"name":{"of":"n1"}}`, "was written by a later version of oncekv"},
		"no format":                {`{"name":"n1"}`, "is not valid"},
		"no birth":                 {`{"format":2,"name":"n1","id":"0000000000000001"}`, "is not valid"},
		"no nonces":                {`{"format":2,"name":"n1","id":"0000000000000001","birth":{"level":1},"founders":[{"id":"0000000000000001","name":"n1","birth":{"level":1}}]}`, "is not valid (its nonce or its level is missing)"},
		"other founders":           {`{"format":2,"name":"n1","id":"0000000000000001","birth":{"nonce":"01000000000000000000000000000000","level":1},"founders":[{"id":"0000000000000001","name":"n1"}]}`, "is not valid"},
	} {
		cfg := newTestNode(t, "n1").cfg
		if err := os.WriteFile(identityPath(cfg.Dir), []byte(c.identity), 0o600); err != nil {
			t.Fatal(err)
		}
		before := contents(t, cfg.Dir)
		_, opened := Open(cfg, &listSM{})
		_, founders := Founders(cfg.Dir)
		_, belongs := Belongs(cfg.Dir)
		for _, err := range []error{opened, founders, belongs} {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if contents(t, cfg.Dir) != before {
			t.Errorf("%s: the directory is another one", what)
		}
	}
}

// Who formed a cluster can be told from the directory of any of them.
func TestFounders(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	mustPropose(t, nodes[0], "x")
	sameLists(t, nodes, 1)
	for _, n := range nodes {
		founders, err := Founders(n.cfg.Dir)
		if err != nil || len(founders) != 3 || founders[0].Name != "n1" || founders[2].PeerURL != nodes[2].cfg.PeerURL {
			t.Errorf("%s: %+v, %v", n.cfg.Name, founders, err)
		}
	}
}

// oneHistory returns the histories that all nodes have gone through.
func oneHistory(t *testing.T, nodes []*testNode) []historyID {
	t.Helper()
	first := nodes[0].sm.histories()
	for _, n := range nodes {
		if got := n.sm.histories(); !slices.Equal(got, first) {
			t.Fatalf("%s has gone through the histories %v, and %s through %v", nodes[0].cfg.Name, first, n.cfg.Name, got)
		}
	}
	return first
}

// Founders form a cluster of what all of them were restored from: with all of it, with
// a history of its own, and of the lowest level that any of them knows.
func TestForm_Restored(t *testing.T) {
	nodes := unstarted(t, 3)
	list := [][]byte{[]byte("a"), []byte("b")}
	for i, n := range nodes {
		n.cfg.Level = uint64(3 - i)
		n.sm.restore(someState(5), list...)
		n.start()
	}
	mustPropose(t, nodes[0], "c")
	sameLists(t, nodes, 3)
	histories := oneHistory(t, nodes)
	if len(histories) != 2 || histories[0] != someState(5).History || histories[1] == histories[0] {
		t.Errorf("the histories are %v", histories)
	}
	for _, n := range nodes {
		st := n.node.Status()
		if list := n.sm.list(); !bytes.Equal(list[0], []byte("a")) || histories[1].cluster() != st.ClusterID || st.Level != 1 {
			t.Errorf("%s has %q, cluster %v, level %d", n.cfg.Name, list, st.ClusterID, st.Level)
		}
	}
	if err := nodes[1].stop(); err != nil {
		t.Fatal(err)
	}
	nodes[1].start()
	mustPropose(t, nodes[1], "d")
	sameLists(t, nodes, 4)
	oneHistory(t, nodes)
}

// unstarted are the nodes of a cluster that nobody has started.
func unstarted(t *testing.T, size int) (nodes []*testNode) {
	t.Helper()
	var peers []Peer
	for i := range size {
		n := newTestNode(t, fmt.Sprintf("n%d", i+1))
		nodes = append(nodes, n)
		peers = append(peers, Peer{n.cfg.Name, n.cfg.PeerURL})
	}
	for _, n := range nodes {
		n.cfg.InitialCluster = peers
	}
	return nodes
}

// Founders that were not restored from the same form nothing, and say who has what.
func TestForm_FoundersDisagree(t *testing.T) {
	nodes := unstarted(t, 2)
	nodes[1].sm.restore(someState(5), []byte("a"))
	before := nodes[1].sm.list()
	for _, n := range nodes {
		n.start()
	}
	// The first that hears of it stops, and is not there for the other one any more.
	var err error
	select {
	case err = <-nodes[0].errC:
		nodes[0].errC <- err
	case err = <-nodes[1].errC:
		nodes[1].errC <- err
	}
	if !errors.Is(err, errFounders) || !strings.Contains(err.Error(), "the state of n1 was empty") || !strings.Contains(err.Error(), "that of n2 was restored from history 0500") {
		t.Errorf("ended with %v", err)
	}
	for _, n := range nodes {
		_ = n.stop()
		if belongs, err := Belongs(n.cfg.Dir); belongs || err != nil {
			t.Errorf("%s belongs to a cluster: %v", n.cfg.Name, err)
		}
	}
	if after := nodes[1].sm.list(); len(after) != len(before) {
		t.Errorf("the restored state is %q", after)
	}
}

// What is restored joins nothing: its state would not be that of the others.
func TestJoin_Restored(t *testing.T) {
	n := newTestNode(t, "n1")
	n.sm.restore(someState(5), []byte("a"))
	n.cfg.Join = func(context.Context, Member) ([]Member, error) {
		t.Error("it asks to be taken in")
		return nil, errors.New("no")
	}
	n.start()
	if err := ended(t, n); !errors.Is(err, errMixedUp) || !strings.Contains(err.Error(), "without --join") {
		t.Errorf("ended with %v", err)
	}
}

// A node takes over a cluster that was formed without it knowing only if it is the
// founder that the others know.
func TestConsider_AnotherBirth(t *testing.T) {
	n := newCrashCluster(t, 1, -1).nodes[1].node
	founders := testFounders(2)
	n.self.Birth = founders[0].Birth
	a := introduction{Name: "n2", ID: 2, ClientURL: "http://n2:2", ClusterID: historyOf(founders).cluster(), Founders: founders}
	if got, cluster, err := n.consider([]introduction{a}, false); err != nil || len(got) != 2 || cluster != a.ClusterID {
		t.Errorf("%v, cluster %v, %v", got, cluster, err)
	}
	n.self.Birth.Nonce[0]++
	if _, _, err := n.consider([]introduction{a}, false); !errors.Is(err, errMixedUp) || !strings.Contains(err.Error(), "--join http://n2:2") {
		t.Errorf("with another nonce: %v", err)
	}
}

// An identity whose cluster is not that of its founders begins nothing.
func TestBegin_OtherCluster(t *testing.T) {
	n, err := Open(newTestNode(t, "n1").cfg, &listSM{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.adopt(9, testFounders(1), nil); err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); !errors.Is(err, errMixedUp) {
		t.Errorf("ended with %v", err)
	}
	if applied, _, _, _, err := n.sm.Durable(); applied != 0 || err != nil {
		t.Errorf("the state begins at %d, %v", applied, err)
	}
}
