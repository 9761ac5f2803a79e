package raftnode

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/level"
)

// In a share of the worlds machines run different versions of the program, and change
// them at their starts. The later version knows one level more, and a command of it: it
// means what the command inside means, which nobody of the earlier version can know.

// simLater is the level of the later version.
const simLater = level.Highest + 1

// simLaterCommand begins the command that the later version knows.
var simLaterCommand = []byte{simLater, 200}

// simLevels has dice of its own, so that other worlds stay as they are.
type simLevels struct {
	r     *rand.Rand
	mixed bool

	ran  map[ID]bool   // members that ever ran the later version
	rose map[ID]uint64 // an entry after which the level has risen, by cluster
	at   int64         // step from which on the later version is rolled out
	last int64         // step at which a machine was stopped for that
}

func newSimLevels(seed uint64) *simLevels {
	l := &simLevels{r: rand.New(rand.NewPCG(seed, 7)), ran: map[ID]bool{}, rose: map[ID]uint64{}}
	l.mixed, l.at = l.r.IntN(3) == 0, l.r.Int64N(400)
	return l
}

// program is what a new machine runs.
func (l *simLevels) program() uint64 {
	if l.mixed {
		return simLater - uint64(l.r.IntN(2))
	}
	return level.Highest
}

// rolls reports whether machines that stop start with the later version. When the level
// has risen somebody may go back.
func (w *simWorld) rolls() bool {
	l := w.levels
	return l.mixed && (w.calm.Load() || w.step >= l.at && len(l.rose) == 0)
}

// install may put another version on a machine, before it starts.
func (w *simWorld) install(s *simNode) {
	l := w.levels
	if !l.mixed {
		return
	}
	was := s.known
	if w.rolls() {
		s.known = simLater
	} else if l.r.IntN(2) == 0 {
		s.known = l.program()
	}
	if s.known != was {
		w.note("n%d has a program of level %d now", s.id, s.known)
	}
}

// upgrade stops the machines with the earlier version, one after the other.
func (w *simWorld) upgrade() {
	const pause = 30
	l := w.levels
	if !w.rolls() || w.alone() && !w.calm.Load() || w.step-l.last < pause {
		return
	}
	for _, id := range w.ids() {
		if s := w.nodes[id]; s.life != nil && s.known < simLater {
			w.note("n%d stops to be upgraded", s.id)
			l.last = w.step
			s.crash(false)
			s.wakeAt = w.step + l.r.Int64N(pause)
			w.rest()
			return
		}
	}
}

// later returns what the version of a process makes of a command: it uses what it has as
// soon as the store's level allows it, in half of the cases, and now and then before; but
// not for what it must bring to an end.
func (l simLog) later(command []byte) []byte {
	sum := crc32.ChecksumIEEE(command)
	if !l.w.levels.mixed || l.node.cfg.Level < simLater || sum%2 == 1 || l.node.Status().Level < simLater && (sum%16 > 0 || command[1] == simAbandonCommand) {
		return command
	}
	return slices.Concat(simLaterCommand, command)
}

// Level knows the later version's command if the program does.
func (a simStore) Level(command []byte) (uint64, error) {
	inner, ok := bytes.CutPrefix(command, simLaterCommand)
	if !ok {
		return a.Store.Level(command)
	}
	if a.known < simLater {
		return 0, &level.LaterError{What: "a command", Level: simLater, Known: a.known}
	}
	need, err := a.Store.Level(inner)
	return max(simLater, need), err
}

// understood returns the commands that the store shall carry out.
func (a simStore) understood(commands [][]byte) ([][]byte, error) {
	if !slices.ContainsFunc(commands, func(c []byte) bool { return bytes.HasPrefix(c, simLaterCommand) }) {
		return commands, nil
	}
	commands = slices.Clone(commands)
	for i, c := range commands {
		inner, ok := bytes.CutPrefix(c, simLaterCommand)
		if _, err := a.Level(c); ok && err != nil {
			return nil, err
		}
		commands[i] = inner
	}
	return commands, nil
}

// Resolve is for both versions' commands.
func (a simStore) Resolve(command []byte) (any, bool, error) {
	return a.Store.Resolve(bytes.TrimPrefix(command, simLaterCommand))
}

// raise lets a process look after the store's level, as Run does, in turns of its own.
func (s *simNode) raise(ctx context.Context, life *simLife) {
	if !s.w.levels.mixed {
		return
	}
	c := s.w.actor()
	s.w.behind.Add(1)
	go func() {
		defer s.w.behind.Add(-1)
		c.await()
		life.node.keepRaising(context.WithValue(ctx, simClientKey{}, c))
	}()
}

// proposed judges what a leader puts into its log: nothing above the store's level, no
// member below it, and no rise of it before each member has run a program that knows the
// level.
func (w *simWorld) proposed(s *simNode, entries []raftpb.Entry) {
	c := s.life.node.core
	for i := range entries {
		e := &entries[i]
		if !c.isLeader() || e.Term != c.term {
			continue
		}
		if e.Type == raftpb.EntryConfChange {
			ch, _, err := decodeChange(e.Data)
			if err != nil || ch.Number != c.members.changed+1 {
				continue
			}
			if ch.Op == opAdd && ch.Member.knows() < c.members.level {
				w.fatalf("n%d adds %s of level %d, and the store has %d", s.id, ch.Member.Name, ch.Member.knows(), c.members.level)
			}
			for id := range c.members.members {
				if ch.Op == opRaise && !w.levels.ran[id] {
					w.fatalf("n%d raises the store's level, although %v knows no other", s.id, id)
				}
			}
		} else if len(e.Data) > 0 {
			need, _, _, err := batchHead(e.Data)
			cmds, _, _ := decodeBatch(e.Data)
			later := slices.ContainsFunc(cmds, func(c command) bool { return bytes.HasPrefix(c.data, simLaterCommand) })
			if err != nil || need > c.members.level || later && need < simLater {
				w.fatalf("n%d puts an entry of level %d into its log, later commands %v, and the store has %d: %v", s.id, need, later, c.members.level, err)
			}
		}
	}
}

// rises judges the level in a process's member table: it rises with the same entry
// everywhere, and never falls.
func (w *simWorld) rises(s *simNode) {
	n := s.life.node
	at := n.self.ClusterID
	if !w.levels.mixed || w.lost(at) && w.force.copied {
		return
	}
	level, applied := n.core.members.level, n.progress.index()
	rose, ok := w.levels.rose[at]
	switch {
	case level > n.cfg.Level:
		w.fatalf("n%d goes on with a store of level %d, and knows %d", s.id, level, n.cfg.Level)
	case level >= simLater && (!ok || n.core.commit < rose):
		w.levels.rose[at] = n.core.commit // or before it
	case level < simLater && ok && applied >= rose:
		w.fatalf("n%d has a store of level %d after entry %d, others had a higher one after %d", s.id, level, applied, rose)
	}
}

// tooOld reports whether a machine ends, rightly, because its program does not know the
// store's level. It goes on from there with the later version.
func (w *simWorld) tooOld(s *simNode, err error) bool {
	refused := errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "knows up to level")
	if !isLater(err) && !refused {
		return false
	}
	if s.known >= simLater || !w.levels.mixed {
		w.fatalf("n%d with a program of level %d: %v", s.id, s.known, err)
	}
	w.note("n%d is too old: %v", s.id, err)
	s.wakeAt = w.step + 10
	return true
}

// risen reports whether the level is that of all members, as it must be in the end. It
// cannot be if one of them is gone, and still a member.
func (l *simLevels) risen(w *simWorld, c *core) bool {
	if !l.mixed || c.members.level >= simLater {
		return true
	}
	for id := range c.members.members {
		if s := w.member(id); s == nil || s.gone {
			return true
		}
	}
	return false
}
