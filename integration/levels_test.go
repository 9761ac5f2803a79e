package integration

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/broken"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// laterProgram is the program of a later version: it has one level more, and sets keys below
// later/ by a command of that level.
var laterProgram = []broken.Control{
	{File: "internal/level/level.go", Old: "const Highest = 1\n", New: "const Highest = 2\n"},
	{File: "kvstore/command.go",
		Old: "	return appendHeader(appendCommandHead(b, commandPut), m)\n",
		New: `	head := appendCommandHead(b, commandPut)
	if len(m.Key) > 6 && m.Key[:6] == "later/" {
		head[0], head[1] = 2, 200
	}
	return appendHeader(head, m)
`},
	{File: "kvstore/command.go",
		Old: "	kind = commandKind(c.byte())\n",
		New: `	if kind = commandKind(c.byte()); needed == 2 && kind == 200 {
		return needed, kind, nil
	}
`},
	{File: "kvstore/command.go",
		Old: "	switch cmd.kind {\n	case commandPut:\n",
		New: "	if cmd.kind == 200 {\n		cmd.kind = commandPut\n	}\n	switch cmd.kind {\n	case commandPut:\n"},
}

// hasty is a wrong later program: it proposes what some members do not know.
var hasty = broken.Control{File: "raftnode/gate.go", Old: "	if need > c.members.level {\n", New: "	if need > c.members.level+100 {\n"}

// TestLevels_ProgramsApply: the later programs still apply to this one.
func TestLevels_ProgramsApply(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	broken.Overlay(t, root, append(laterProgram[:len(laterProgram):len(laterProgram)], hasty)...)
}

func changedProgram(t *testing.T, changes ...broken.Control) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	path, err := clustertest.ChangedBinary(t.TempDir(), broken.Overlay(t, root, changes...))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// stopsAtLater waits until a node has ended because of what a later version wrote, and checks
// that a second start ends alike and changes no file.
func stopsAtLater(t *testing.T, n *clustertest.Process) {
	t.Helper()
	ended := func() {
		t.Helper()
		if code := n.Wait(); code != 2 {
			t.Errorf("%s ended with code %d", n.Name, code)
		}
		if log := n.Log(); !strings.Contains(log, "written by a later version of oncekv (level 2); this program knows up to 1") {
			t.Errorf("%s does not say what it met:\n%s", n.Name, log)
		}
	}
	ended()
	before := treeOf(t, n.Dir)
	n.Start()
	ended()
	if after := treeOf(t, n.Dir); !maps.Equal(before, after) {
		t.Errorf("%s changed files at a start that it refused: %v, then %v", n.Name, before, after)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// putStatus puts once and returns the status, 0 without an answer, and the body.
func putStatus(n *clustertest.Process, key, value string) (int, string) {
	req, err := http.NewRequest(http.MethodPut, n.URL()+"/key/"+key, strings.NewReader(value))
	if err != nil {
		return 0, err.Error()
	}
	resp, err := (&http.Client{Timeout: clustertest.Patience}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	_, _ = body.ReadFrom(resp.Body) // what there is of it
	return resp.StatusCode, body.String()
}

// leads makes a node the leader.
func leads(t *testing.T, p *clustertest.Processes, n *clustertest.Process) {
	t.Helper()
	clustertest.Eventually(t, n.Name+" leads", func() error {
		if leader := p.Leader(); leader != n {
			err := clustertest.Client(t, leader.URL()).TransferLeader(clustertest.WithTimeout(t), n.Name)
			return fmt.Errorf("%s leads: %v", leader.Name, err)
		}
		return nil
	})
}

// A node that meets a later version's command stops before it and leaves its data as it is.
// With the later version it continues from there.
func TestLevels_CommandOfALaterVersion(t *testing.T) {
	t.Parallel()
	later := changedProgram(t, append(laterProgram[:len(laterProgram):len(laterProgram)], hasty)...)
	p := clustertest.NewProcesses(t, bin, 3, 0)
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	n1.Bin = later
	p.StartAll()
	if status, body := putStatus(n2, "before", "1"); status != http.StatusCreated {
		t.Fatalf("put: %d %s", status, body)
	}
	leads(t, p, n1)
	if status, body := putStatus(n1, "later/k", "2"); status != http.StatusCreated && status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout {
		t.Fatalf("put of the later version: %d %s", status, body) // the others may be gone before it is answered
	}
	stopsAtLater(t, n2)
	stopsAtLater(t, n3)
	n2.Bin, n3.Bin = later, later
	n2.Start()
	n3.Start()
	n2.WaitReady()
	n3.WaitReady()
	// All nodes refused the early put alike. Now it may be made.
	clustertest.Eventually(t, "the later version sets a key by its own command", func() error {
		if status, body := putStatus(n1, "later/k", "2"); status != http.StatusCreated {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	mustHave(t, map[string]string{"before": "1", "later/k": "2"}, n1, n2, n3)
	clustertest.SameHistory(t, p.DBs...)
}

// If a later version forwards a command before all members know it, nobody proposes it.
func TestLevels_ForwardedTooEarly(t *testing.T) {
	t.Parallel()
	early := changedProgram(t, append(laterProgram[:len(laterProgram):len(laterProgram)], hasty)...)
	later := changedProgram(t, laterProgram...)
	p := clustertest.NewProcesses(t, bin, 3, 0)
	n1, n2, n3 := p.DBs[0], p.DBs[1], p.DBs[2]
	n2.Bin, n3.Bin = later, early
	p.StartAll()
	for _, leader := range []*clustertest.Process{n1, n2} { // a leader of this version, and a careful one of the later
		leads(t, p, leader)
		if status, body := putStatus(n3, "later/"+leader.Name, "x"); status < 500 {
			t.Errorf("a put that %s does not know was answered by %d %s", n1.Name, status, body)
		}
		for _, n := range p.DBs {
			if !n.Running() {
				t.Fatalf("%s has stopped:\n%s", n.Name, n.Log())
			}
		}
		if status, body := putStatus(n3, "plain/"+leader.Name, "x"); status != http.StatusCreated {
			t.Errorf("put afterwards: %d %s", status, body)
		}
	}
	clustertest.SameHistory(t, p.DBs...)
}

// In a rolling upgrade under load, the members agree on the higher level once the last of them
// knows it, not before. Then no member can go back.
func TestLevels_RollingUpgrade(t *testing.T) {
	t.Parallel()
	later := changedProgram(t, laterProgram...)
	p := clustertest.NewProcesses(t, bin, 3, 0)
	p.StartAll()
	w := startWriter(t, "load", 2, clustertest.URLs(p.DBs...)...)
	storeLevel := func(n *clustertest.Process) uint64 {
		t.Helper()
		st, err := n.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return st.Level.Store
	}
	for i, n := range p.DBs {
		w.waitFor(20)
		n.Terminate()
		n.Bin = later
		n.Start()
		n.WaitReady()
		w.waitFor(20)
		if i == len(p.DBs)-1 {
			break
		}
		if level := storeLevel(n); level != 1 {
			t.Fatalf("level %d after %d upgrades", level, i+1)
		}
		if status, body := putStatus(n, "later/early", "x"); status != http.StatusServiceUnavailable || !strings.Contains(body, "level 2") {
			t.Fatalf("a put that needs the later level: %d %s", status, body)
		}
	}
	clustertest.Eventually(t, "the level has risen everywhere", func() error {
		for _, n := range p.DBs {
			if level := storeLevel(n); level != 2 {
				return fmt.Errorf("%s says %d", n.Name, level)
			}
		}
		return nil
	})
	for _, n := range p.DBs {
		if status, body := putStatus(n, "later/"+n.Name, n.Name); status != http.StatusCreated {
			t.Fatalf("a put that needs the later level, at %s: %d %s", n.Name, status, body)
		}
	}
	n3 := p.DBs[2]
	n3.Terminate()
	n3.Bin = bin
	n3.Start()
	stopsAtLater(t, n3)
	n3.Bin = later
	n3.Start()
	n3.WaitReady()
	acked := w.stop()
	for _, n := range p.DBs {
		acked["later/"+n.Name] = n.Name
	}
	mustHave(t, acked, p.DBs...)
	clustertest.SameHistory(t, p.DBs...)

	// A new node of the old version cannot join.
	n4 := p.Joiner("n4", p.DBs[0])
	n4.Start()
	if code := n4.Wait(); code == 0 || !strings.Contains(n4.Log(), "level") {
		t.Errorf("n4 of the old version ended with code %d:\n%s", code, n4.Log())
	}
}
