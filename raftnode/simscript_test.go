package raftnode

import (
	"math/rand/v2"
	"time"

	"github.com/Focinfi/oncekv/kvstore"
)

// Some orders of events are too rare to wait for. In a share of the worlds the scheduler
// plays them, as a script that dice may spoil: nothing happens in it that does not happen
// without. Scripts have dice of their own, so that other worlds stay as they are.

// simScripts decides which scripts a world plays.
type simScripts struct {
	r *rand.Rand

	forgets bool // disks forget what processes that were killed had written, see simForget
	slow    bool // large values come slowly, see slowUploads

	forget *simForget
	away   simAway
	slowly int // large values that come slowly now
}

func newSimScripts(seed uint64, p *simParams) *simScripts {
	s := &simScripts{r: rand.New(rand.NewPCG(seed, 6))}
	s.forgets = s.r.IntN(3) == 0 && p.size == 3 && p.force == 0
	s.slow = s.r.IntN(4) == 0 && p.size > 2 && p.force == 0
	return s
}

// alone reports whether a script keeps other faults out of its way.
func (w *simWorld) alone() bool {
	sc := w.scripts
	return sc.forget != nil || sc.away.until > 0 && w.step < sc.away.until+50
}

// simForget is how a log comes to be in the page cache alone. One of three members is
// away. Another is killed in every fsync of its log, or the first of them fails, and starts
// again on the page cache, so that the leader has its word for what no fsync has brought
// to the disk. Then its power goes, and the leader goes away: what was acknowledged is
// there if the start has synced what it found, and only then.
type simForget struct {
	leader, one, other *simNode
	fails              bool   // the first fsync
	until              int64  // step at which it ends, whatever has come of it
	target             uint64 // what the leader had in its log when the first fsync did not return
	told               int64  // steps since the leader has applied that
	lost               bool   // the power has gone
}

// forgetting goes on with the script, once a step.
func (w *simWorld) forgetting() {
	sc := w.scripts
	g := sc.forget
	if g == nil {
		if sc.forgets && !w.calm.Load() && w.step > 50 && sc.r.Float64() < 0.01 {
			w.forget()
		}
		return
	}
	if w.calm.Load() || w.step > g.until || g.one.gone || g.leader.gone || g.other.gone {
		w.endForget()
		return
	}
	if g.lost {
		if l := w.leader(); l != nil && l != g.leader && l.life.node.core.commit == l.life.node.core.savedIndex && l.life.node.core.commit > 0 {
			g.until = min(g.until, w.step+sc.r.Int64N(20))
		}
		return
	}
	leader := g.leader.takesPart()
	if leader == nil || !leader.node.core.isLeader() {
		w.endForget()
		return
	}
	if g.one.life == nil {
		g.one.wakeAt = min(g.one.wakeAt, w.step+sc.r.Int64N(5))
		if g.target == 0 {
			g.target = leader.node.core.logEnd
		}
	}
	switch {
	case g.target == 0:
		if sc.r.IntN(5) == 0 {
			w.begin(w.put)
		}
	case leader.node.progress.index() >= g.target && g.one.takesPart() != nil:
		if g.told++; g.told > 3+sc.r.Int64N(20) {
			w.losePower(g)
		}
	}
}

// forget begins the script where the cluster is whole.
func (w *simWorld) forget() {
	leader := w.leader()
	if leader == nil || w.change || w.rotten != nil {
		return
	}
	core := leader.life.node.core
	if len(core.members.members) != 3 || len(core.members.conf.Voters) != 3 || core.changeAhead() {
		return
	}
	var others []*simNode
	for _, m := range core.members.list() {
		s := w.member(m.ID)
		if s == nil || s.gone || s.takesPart() == nil {
			return
		}
		if s != leader {
			others = append(others, s)
		}
	}
	sc := w.scripts
	if sc.r.IntN(2) == 0 {
		others[0], others[1] = others[1], others[0]
	}
	g := &simForget{leader: leader, one: others[0], other: others[1], fails: sc.r.IntN(3) == 0 && !w.failed, until: w.step + 200}
	sc.forget, w.change = g, true // no other change, nor a failure that counts on the others
	w.note("n%d goes away, and no fsync of n%d returns, fails %v", g.other.id, g.one.id, g.fails)
	g.other.crash(sc.r.IntN(2) == 0)
	w.rest()
	g.other.wakeAt = g.until + 1000
}

// losePower takes the power of who has the log in its page cache, and the leader away.
func (w *simWorld) losePower(g *simForget) {
	sc := w.scripts
	w.note("n%d loses its power, and n%d goes away", g.one.id, g.leader.id)
	g.lost, g.until = true, w.step+300
	g.one.crash(true)
	w.rest()
	g.leader.crash(sc.r.IntN(2) == 0)
	w.rest()
	g.one.wakeAt, g.other.wakeAt, g.leader.wakeAt = w.step+sc.r.Int64N(20), w.step, g.until+1000
}

func (w *simWorld) endForget() {
	g := w.scripts.forget
	w.note("the others come back")
	w.scripts.forget, w.change = nil, false
	for _, s := range []*simNode{g.leader, g.one, g.other} {
		s.wakeAt = min(s.wakeAt, w.step+50)
	}
}

// forgets reports whether a machine is only killed, by the script, whenever it ends.
func (w *simWorld) forgets(s *simNode) bool {
	g := w.scripts.forget
	return g != nil && g.one == s && !g.lost
}

// hushed reports whether clients put nothing: a later fsync could make up for those that
// did not return.
func (w *simWorld) hushed() bool {
	g := w.scripts.forget
	return g != nil && g.target > 0 && !g.lost
}

// doomed ends a process in an fsync of its log if the script says so.
func (f *simFiles) doomed(path string) bool {
	if !f.w.forgets(f.s) || f.w.calm.Load() || f.alive() != nil {
		return false
	}
	f.wait()
	if g := f.w.scripts.forget; g.fails && !f.w.failed {
		f.w.failed = true
		f.w.note("an fsync of n%d fails", f.s.id)
		_ = f.fail(path)
	}
	f.ends()
	return true
}

// simAway is a machine that nobody hears, or that hears nobody, for longer than an upload
// may be idle.
type simAway struct {
	id         ID
	deaf, mute bool
	until      int64
}

// cuts reports whether it keeps a message from its receiver.
func (a *simAway) cuts(w *simWorld, from, to ID) bool {
	return w.step < a.until && !w.calm.Load() && (a.deaf && to == a.id || a.mute && from == a.id)
}

// Slow values take longer than an upload may be idle, and some stand still so long.
const (
	simSlowChunks = 5
	simSlowPause  = 2 * time.Second
)

// slowUploads lets large values come slowly, and meanwhile takes away a machine that
// knows of them: it must not take them for idle when it comes back.
func (w *simWorld) slowUploads() {
	sc := w.scripts
	if !sc.slow || w.calm.Load() {
		return
	}
	if sc.slowly == 0 && sc.r.IntN(30) == 0 {
		w.note("a large value begins to come slowly")
		sc.slowly++
		w.begin(w.putSlowly)
	}
	if sc.slowly == 0 || w.step < sc.away.until+150 || sc.r.IntN(10) > 0 {
		return
	}
	ids := w.ids()
	s := w.nodes[ids[sc.r.IntN(len(ids))]]
	if life := s.takesPart(); life == nil || s == w.leader() || life.store.Stats().OpenUploads == 0 {
		return
	}
	kind, steps := sc.r.IntN(3), 330+sc.r.Int64N(70)
	w.note("n%d is away for %d steps, kind %d", s.id, steps, kind)
	switch kind {
	case 0:
		s.frozen = w.step + steps
		sc.away = simAway{until: w.step + steps}
	default:
		sc.away = simAway{id: s.id, deaf: true, mute: kind == 1, until: w.step + steps}
	}
}

// putSlowly sets a key to a large value that comes slowly, through the leader.
func (w *simWorld) putSlowly(c *simClient) {
	defer func() { w.scripts.slowly--; w.note("a large value has come slowly") }()
	c.slow = true
	w.putValue(c, simBytes(0, simSlowChunks*kvstore.ChunkBytes+c.r.IntN(1000)))
}
