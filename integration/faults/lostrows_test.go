package faults

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// indexDir is the directory of the index in a node's.
const indexDir = "index"

// lostRows are faults of single files of a data directory while the node is down: somebody
// moves one away, or restores an older copy of all.
func lostRows() []row {
	cut := plan{databases: 3, bodies: true, flags: []string{"--snapshot-log-bytes", "64KiB"}} // so that there are snapshots
	lost := func(name, glob string) row {
		return row{name: "lost-" + name, plan: cut, attack: func(e *episode) { e.lostFile(glob) }}
	}
	return []row{
		lost("identity", "identity"),
		lost("segment", "wal/*.wal"),
		lost("log", "wal"),
		lost("snapshot", "snap/*.snap"),
		lost("history", "history.db"),
		lost("index", indexDir),
		lost("index-file", indexDir+"/*"),
		lost("values-segment", segments),
		lost("values", valuesDir),
		{name: "older-copy", plan: cut, attack: olderCopy},
	}
}

// lostFile moves one of a node's files away, starts the node, and puts the file back if the
// node refuses to start without it. Then nothing of its data may be lost: it votes as before,
// and is judged like every node.
func (e *episode) lostFile(glob string) {
	victim := e.follower()
	e.snapshots(victim)
	if strings.HasPrefix(glob, valuesDir) {
		e.hasSegments(victim)
	}
	kill(victim)
	if strings.HasPrefix(glob, indexDir) {
		e.flushIndex(victim)
	}
	path := e.oneOf(filepath.Join(victim.Dir, glob))
	away := filepath.Join(e.t.TempDir(), "away")
	e.move(path, away)
	since := e.history.now()
	victim.Start()
	if e.startsOrEnds(victim) {
		e.t.Logf("%s runs without %s", victim.Name, path)
		e.writesBack("without "+filepath.Base(path), since, backAfterHeal, victim)
		return
	}
	if err := os.RemoveAll(path); err != nil { // it may have made another one
		e.t.Fatal(err)
	}
	e.move(away, path)
	since = e.history.now()
	victim.Start()
	e.writesBack("with "+filepath.Base(path)+" back", since, backAfterHeal, victim)
}

// snapshots waits until a node has cut its log: its first snapshot is of entry 1.
func (e *episode) snapshots(n *node) {
	e.t.Helper()
	clustertest.Eventually(e.t, n.Name+" takes a snapshot", func() error {
		if snapshotIndex(n) <= 1 {
			return errors.New("it has only the first")
		}
		return nil
	})
}

// move is mv.
func (e *episode) move(from, to string) {
	e.t.Helper()
	do(e.t, "mv", "-T", from, to)
}

// startsOrEnds waits until a started node is ready, or has ended with a sentence. It reports
// which.
func (e *episode) startsOrEnds(n *node) (starts bool) {
	e.t.Helper()
	p := newProber("start", n, e.history, attemptPatience)
	clustertest.Eventually(e.t, n.Name+" is ready or ends", func() error {
		if starts = n.Running() && p.ready() == http.StatusOK; n.Running() && !starts {
			return errors.New("neither")
		}
		return nil
	})
	if starts {
		return true
	}
	code := n.Wait()
	lines := strings.Split(strings.TrimSpace(n.Log()), "\n")
	e.t.Logf("%s ended with code %d and said: %s", n.Name, code, lines[len(lines)-1])
	if code < 1 || code > codeDiskFailed || strings.Contains(n.Log(), "\ngoroutine ") {
		e.t.Errorf("%s ended with code %d, or in a panic; its log:\n%s", n.Name, code, tail(n.Log()))
	}
	return false
}

// olderCopy replaces a node's directory by a copy made a while before. The copy lacks what the
// node has acknowledged since, and the leader does not know that. The node says so and is
// replaced, unless another node has become leader and sends it everything again.
func olderCopy(e *episode) {
	victim := e.follower()
	e.snapshots(victim)
	e.stopInOrder(victim)
	older := filepath.Join(e.t.TempDir(), "older")
	do(e.t, "cp", "-a", victim.Dir, older)
	since := e.history.now()
	victim.Start()
	e.writesBack("after a copy was made", since, backAfterKill, victim)
	e.progress(100)
	s, err := e.world.leader().Stats()
	if err != nil {
		e.t.Fatal(err)
	}
	kill(victim)
	victim.wipe(e.t)
	e.move(older, victim.Dir)
	victim.Start()
	caughtUp := false
	clustertest.Eventually(e.t, victim.Name+" notices that it has an old copy, or catches up", func() error {
		now, err := victim.Stats()
		if caughtUp = err == nil && now.AppliedIndex >= s.CommitIndex; caughtUp || !victim.Running() || strings.Contains(victim.Log(), "the data directory is an old copy") {
			return nil
		}
		return fmt.Errorf("it is at entry %d of %d, %v", now.AppliedIndex, s.CommitIndex, err)
	})
	e.t.Logf("from an older copy %s caught up: %v", victim.Name, caughtUp)
	if caughtUp {
		e.writesBack("from an older copy", e.history.now(), backAfterHeal, victim)
		return
	}
	kill(victim)
	e.replace(victim)
}
