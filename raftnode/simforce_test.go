package raftnode

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"

	"github.com/Focinfi/oncekv/internal/checker"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// simForce is how an operator forces a new cluster in a world: all machines but one
// are lost or out of reach, and the one left is started with the word for it. The
// others come back later, with what they had or with older copies, and what they do
// until they hear of the new cluster is a world beside it.
type simForce struct {
	survivor *simNode
	apart    bool   // the others go on, and nobody reaches the survivor
	old, new ID     // clusters; new is 0 until it is there
	at       uint64 // the entry that forces it, when the survivor has written that
	over     bool   // it is there, or was refused

	rev     kvstore.Revision // of the survivor when the others were lost
	digest  kvstore.Digest
	had     map[string]kvstore.Meta // what was acknowledged and the survivor had applied by then
	kept    map[string]kvstore.Meta // what is in the new cluster
	since   int64                   // clients' clock when the others were lost
	copied  bool                    // older copies were started: nothing is promised of the old cluster
	removed map[ID]bool             // members of the old cluster, and those before, that are not of the new one
	heard   map[ID]int64            // how many steps on end an old leader could hear of the new cluster
}

// simEnds is how many steps a leader may take to hear that its cluster has ended.
const simEnds = 500

// simOp is what a client saw of a cluster.
type simOp struct {
	checker.Op
	cluster ID
	asked   []ID // clusters, by the client, until then
}

// simMark is a revision in the history of a cluster.
type simMark struct {
	cluster ID
	rev     kvstore.Revision
}

// simCopy is a copy of all that was on a machine.
type simCopy struct {
	of               *simNode
	raft             ID
	history, staging *engine.MemEngine
	index            *keyruns.MemFiles
	files            *simEntry
}

// lost reports whether a cluster is the one that has ended, or is about to.
func (w *simWorld) lost(cluster ID) bool { return w.force != nil && w.force.old == cluster }

// lose takes all machines away but one, which shall force a new cluster.
func (w *simWorld) lose() {
	leader, s := w.leader(), w.any()
	if leader == nil || s.takesPart() == nil || s.life.node.self.ClusterID != leader.life.node.self.ClusterID {
		return
	}
	table := leader.life.node.core.members
	if m, member := table.members[s.raft]; !member || m.Learner || len(table.members) < 2 || w.rotten != nil {
		return
	}
	st := s.life.store.Stats()
	f := &simForce{survivor: s, apart: w.dice(0.4), old: table.cluster, rev: st.Revision, digest: st.Digest, had: map[string]kvstore.Meta{}, kept: map[string]kvstore.Meta{}, since: w.clock, heard: map[ID]int64{}}
	for key, m := range w.created {
		if v, err := s.life.store.Get(kvstore.Key(key)); err == nil && v.Revision == m.Revision {
			f.had[key] = m
		}
	}
	w.force, w.change = f, true
	for _, id := range w.ids() {
		if other := w.nodes[id]; other != s && !f.apart {
			if other.life != nil {
				other.crash(w.dice(0.5))
				w.rest()
			}
			other.asleep = true
		}
	}
	w.note("all but n%d are lost, apart %v", s.id, f.apart)
	s.crash(w.dice(0.5))
	w.rest()
	s.force = ForceOnce
}

// forcing goes on with it, once a step.
func (w *simWorld) forcing() {
	f := w.force
	if f == nil {
		if w.chance(w.p.force) && !w.change {
			w.lose()
		}
		return
	}
	if life := f.survivor.takesPart(); !f.over && life != nil {
		switch n := life.node; {
		case n.self.ClusterID == f.old:
			w.fatalf("n%d takes part in the old cluster although it should force a new one", f.survivor.id)
		case n.core.forcedAt <= n.progress.index():
			f.removed = maps.Clone(n.core.members.removed)
			w.forced(n.self.ClusterID, life.store)
		}
	}
	if f.new == 0 {
		return
	}
	if life := f.survivor.takesPart(); life != nil && life.node.self.ClusterID != f.new {
		w.fatalf("n%d, which has forced cluster %v, is of cluster %v", f.survivor.id, f.new, life.node.self.ClusterID)
	}
	if f.apart = f.apart && !w.calm.Load() && !w.chance(0.005); f.apart {
		return
	}
	for _, id := range w.ids() {
		s := w.nodes[id]
		if s.asleep && (w.calm.Load() || w.chance(0.01)) {
			s.asleep = false
			if c := w.copied[s.id]; c != nil && w.chance(0.5) {
				w.restore(c, s)
			}
		}
		w.hears(s)
	}
	if c := w.copied[f.survivor.id]; c != nil && w.chance(0.005) && len(w.nodes) < 12 {
		delete(w.copied, f.survivor.id)
		w.restore(c, w.machine(ID(len(w.nodes)+1), nil)) // beside it
	}
}

// forced is called when the survivor has made the new cluster: what was acknowledged
// in the old one is in it if the survivor had it.
func (w *simWorld) forced(cluster ID, store *kvstore.Store) {
	f := w.force
	w.note("n%d has forced cluster %v", f.survivor.id, cluster)
	f.new, f.over, w.change = cluster, true, false
	if d, err := store.DigestAt(f.rev); err != nil || d != f.digest {
		w.fatalf("the forced cluster has another history at revision %d: %v", f.rev, err)
	}
	for key, m := range w.created {
		v, err := store.Get(kvstore.Key(key))
		if err == nil && v.Revision == m.Revision && v.SHA256 == m.SHA256 {
			continue
		}
		if _, had := f.had[key]; had {
			w.fatalf("the forced cluster has lost %q, which the survivor had: %v", key, err)
		}
		delete(w.created, key)
	}
	for i := range w.ops {
		if v, err := store.Get(kvstore.Key(w.ops[i].Key)); err == nil {
			f.kept[w.ops[i].Key] = v.Meta
		}
	}
	if !w.chance(0.5) { // else the word stays in the unit
		f.survivor.force = ""
	}
}

// hears judges that a leader of the old cluster does not go on when it can hear of the
// new one.
func (w *simWorld) hears(s *simNode) {
	f, to := w.force, w.force.survivor
	if life := s.takesPart(); life == nil || life.node.self.ClusterID != f.old || !life.node.core.isLeader() || s.frozen > w.step ||
		to.takesPart() == nil || to.frozen > w.step || !w.connected(s.id, to.id) || !w.connected(to.id, s.id) || life.node.core.members.members[to.raft].ID == 0 {
		f.heard[s.id] = 0
		return
	}
	if f.heard[s.id]++; f.heard[s.id] > simEnds {
		w.fatalf("n%d leads a cluster that has ended", s.id)
	}
}

// ended reports whether an error says, rightly, that a machine's cluster has ended. It
// may be started again, and must not take part.
func (w *simWorld) ended(s *simNode, err error) bool {
	if w.force == nil || !errors.Is(err, ErrEnded) || w.force.survivor == s {
		return false
	}
	s.gone = w.dice(0.5)
	s.left = s.gone && !s.beside
	return true
}

// refusesForce is called when a machine does not start, and reports whether that is
// because a new cluster is not forced twice; then the word is taken away.
func (w *simWorld) refusesForce(s *simNode, err error) bool {
	var refused *ForceError
	if !errors.As(err, &refused) || s.force == "" {
		return false
	}
	w.note("n%d does not force: %v", s.id, refused)
	s.force = ""
	if f := w.force; !f.over && refused.Done == nil && s.raft != 0 && len(s.lastSelf.Forced) == 0 {
		f.over, f.apart, f.old, w.change = true, false, 0, false // it was removed: the others come back
		for _, other := range w.nodes {
			other.asleep = false
		}
	}
	return true
}

// endsAll reports whether all members of the old cluster have stopped, as far as they
// can know.
func (w *simWorld) endsAll() bool {
	f := w.force
	if f == nil || f.over && f.new == 0 {
		return true
	}
	for _, s := range w.nodes {
		if s.asleep {
			return false
		}
		life := s.takesPart()
		if life == nil || s.beside || life.node.self.ClusterID != f.old {
			continue
		}
		if slices.ContainsFunc(life.node.peersAtStart(), func(m Member) bool { return m.ID == f.survivor.raft }) {
			return false
		}
	}
	return f.over
}

// checkOps judges what clients saw: of each cluster by itself, and of the new one with
// what it has of the old one.
func (w *simWorld) checkOps() {
	var all, old []checker.Op
	f := w.force
	for _, o := range w.ops {
		switch {
		case f == nil || f.new == 0 || o.cluster != f.old:
			all = append(all, o.Op)
			if f != nil && o.Outcome == checker.Unknown {
				old = append(old, o.Op)
			} else if f != nil && o.Value != "" && slices.Contains(o.asked, f.old) { // a try before may have taken effect there
				old = append(old, unknown(o.Op))
			}
			continue
		}
		old = append(old, o.Op)
		kept, ok := f.kept[o.Key]
		if value, saw := seenBy(&o.Op); o.Outcome != checker.Unknown && o.Return <= f.since && ok && (!saw || value == digestText(kept.SHA256) && o.Revision == uint64(kept.Revision)) {
			all = append(all, o.Op)
		} else if o.Value != "" { // nobody knows what becomes of it in the new cluster
			all = append(all, unknown(o.Op))
		}
	}
	for _, v := range checker.Check(all) {
		w.fatalf("%v", v)
	}
	if f != nil && f.new != 0 && !f.copied {
		for _, v := range checker.Check(old) {
			w.fatalf("in the cluster that has ended: %v", v)
		}
	}
}

// unknown returns a put as one that nobody has heard the answer of.
func unknown(op checker.Op) checker.Op {
	op.Outcome, op.Seen, op.Revision, op.Return = checker.Unknown, "", 0, math.MaxInt64
	return op
}

// seenBy returns the value that an operation saw its key set to.
func seenBy(o *checker.Op) (string, bool) {
	switch o.Outcome {
	case checker.Created, checker.Unchanged:
		return o.Value, true
	case checker.Conflict, checker.Found:
		return o.Seen, true
	}
	return "", false
}

// copies reports whether a machine is of the old cluster, in which older copies were
// started: nothing holds there any more.
func (w *simWorld) copies(s *simNode) bool {
	return w.force != nil && w.force.copied && s != w.force.survivor && s.lastSelf.ClusterID == w.force.old
}

// copy keeps what is on a machine that is stopped.
func (w *simWorld) copy(s *simNode) {
	w.note("n%d is copied", s.id)
	w.copied[s.id] = &simCopy{of: s, raft: s.raft, history: s.history.Copy(), index: s.index.Copy(), staging: s.staging.Copy(), files: s.files.capture()}
}

// restore puts a copy on a machine, in place of what is there.
func (w *simWorld) restore(c *simCopy, s *simNode) {
	w.note("n%d gets a copy of n%d", s.id, c.of.id)
	w.force.copied = true
	s.history, s.index, s.staging = c.history.Copy(), c.index.Copy(), c.staging.Copy()
	s.pulled = true // perhaps
	s.files.wipe()
	s.files = newSimFiles(s)
	s.files.fill(c.files)
	s.raft, s.beside, s.name = c.raft, s != c.of, c.of.name
	s.wakeAt = w.step + w.r.Int64N(50)
}

// fill makes files of a copy, all of which are durable.
func (f *simFiles) fill(e *simEntry) {
	for _, i := range f.inodes {
		i.file.Close()
	}
	f.inodes = nil
	fresh := durable(e)
	f.top = fresh.inode
	f.revive(fresh)
}

func durable(e *simEntry) *simEntry {
	fresh := &simEntry{inode: &simInode{isDir: e.inode.isDir}, data: e.data}
	if !e.inode.isDir {
		fresh.inode.data = e.data
		return fresh
	}
	fresh.names, fresh.inode.names = map[string]*simEntry{}, map[string]*simInode{}
	for name, sub := range e.names {
		s := durable(sub)
		fresh.names[name], fresh.inode.names[name] = s, s.inode
	}
	return fresh
}

// dial connects to every member that the process knows, as the transport does all the
// time: one that sends nothing to a member hears too that it is refused.
func (s *simNode) dial() {
	n := s.life.node
	for _, m := range n.peersAtStart() {
		to := s.w.member(m.ID)
		if to == nil || to == s || to.takesPart() == nil || !s.w.connected(s.id, to.id) || !s.w.connected(to.id, s.id) {
			continue
		}
		_, ended := to.life.node.endedCluster(n.self.ClusterID.String())
		if ended || to.life.node.self.ClusterID == n.self.ClusterID && to.life.node.isRemoved(n.self.ID) {
			s.life.refusal = errGone
		}
	}
}

// errGone is how the transport tells that a member does not take part any more.
var errGone = errors.New("410 Gone")

// refused tells a process that a member does not take its messages: it was removed, or
// its cluster has ended.
func (s *simNode) refused() error {
	life := s.life
	n := life.node
	if life.refusal != nil {
		ctx := context.WithValue(life.ctx, simClientKey{}, s.w.actor())
		n.askForEnd(ctx, &life.asks, life.refusal)
		life.refusal = nil
	}
	select {
	case f := <-n.endings:
		return n.answered(life.ctx, nil, f)
	default:
	}
	return nil
}

// takes reports whether a process takes the messages of a member, as the transport
// decides it, and lets the sender know if it is told so.
func (w *simWorld) takes(to *simNode, x *simMessage) bool {
	n, from := to.life.node, w.nodes[x.from]
	if x.lie {
		return true
	}
	_, ended := n.endedCluster(x.cluster.String())
	if x.cluster == n.self.ClusterID && !n.isRemoved(x.raft) {
		return true
	}
	if life := from.takesPart(); (ended || x.cluster == n.self.ClusterID) && life != nil && life.node.self.ID == x.raft && life.node.self.ClusterID == x.cluster && w.connected(to.id, x.from) {
		life.refusal = errGone
	}
	return x.cluster == n.self.ClusterID // of who was removed, over a stream that was there before
}
