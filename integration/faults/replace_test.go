package faults

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// refuses starts a node that must end by itself and log all words.
func (e *episode) refuses(n *node, words ...string) {
	e.t.Helper()
	n.Start()
	e.ends(n, words...)
}

// The exit codes of a node that ends by itself. A failed disk has its own, after which no unit
// starts the node again.
const (
	codeFailed       = 1
	codeWrongSetting = 2
	codeDiskFailed   = 6
)

// ends waits for a node that must end by itself and log all words.
func (e *episode) ends(n *node, words ...string) {
	e.t.Helper()
	e.endsWith(codeFailed, n, words...)
}

func (e *episode) endsWith(want int, n *node, words ...string) {
	e.t.Helper()
	if code := n.WaitFor(2 * clustertest.Patience); code != want { // it may have to be asked to write first
		e.t.Errorf("%s ended with code %d, want %d", n.Name, code, want)
	}
	for _, word := range words {
		if !strings.Contains(n.Log(), word) {
			e.t.Errorf("%s does not mention %q; its log ends:\n%s", n.Name, word, tail(n.Log()))
		}
	}
	lines := strings.Split(strings.TrimSpace(n.Log()), "\n")
	e.t.Logf("%s said: %s", n.Name, lines[len(lines)-1])
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// remove removes a node from the cluster through the others.
func (e *episode) remove(n *node) {
	e.t.Helper()
	cl := clustertest.Client(e.t, urls(e.world.others(n)...)...)
	clustertest.Eventually(e.t, "removal of "+n.Name, func() error {
		return cl.RemoveMember(clustertest.WithTimeout(e.t), n.Name, false)
	})
}

// replace gives a node that ended an empty disk and lets it join again, as docs/operations.md
// says.
func (e *episode) replace(n *node) {
	e.t.Helper()
	e.remove(n)
	n.wipe(e.t)
	e.join(n)
	e.becomesVoter(n)
}

// join starts a node with an empty disk that asks the others to add it.
func (e *episode) join(n *node) {
	e.t.Helper()
	e.world.equip(n)
	n.Args = append(n.Args, "--join", strings.Join(urls(e.world.others(n)...), ","))
	n.Start()
}

// becomesVoter waits until a node is a voter and ready.
func (e *episode) becomesVoter(n *node) {
	e.t.Helper()
	since := e.history.now()
	cl := clustertest.Client(e.t, urls(e.world.others(n)...)...)
	clustertest.Eventually(e.t, n.Name+" votes", func() error {
		if !n.Running() {
			e.t.Fatalf("%s has ended; its log:\n%s", n.Name, tail(n.Log()))
		}
		ms, err := cl.Members(clustertest.WithTimeout(e.t))
		if err != nil {
			return err
		}
		i := slices.IndexFunc(ms.Members, func(m api.Member) bool { return m.Name == n.Name })
		if i < 0 || ms.Members[i].Role == api.RoleLearner {
			return fmt.Errorf("it is not a voter in %+v", ms.Members)
		}
		return nil
	})
	n.WaitReady()
	e.t.Logf("RECOVERY %s: %s votes %v after it asked to join", e.row.name, n.Name, e.history.now()-since)
	if !slices.Contains(e.world.dbs, n) {
		e.world.dbs = append(e.world.dbs, n)
	}
}
