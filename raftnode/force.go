package raftnode

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// Forcing a new cluster is done once. It is one entry at the end of the survivor's log,
// committed by itself: it gives the cluster another ID and history, removes all other
// members, and records word and time. So a crash leaves all of it or nothing, and everybody
// who has a copy of the data knows that it was done. The identity follows the log; see
// followForced.

// ForceOnce is the word with which data is forced that never was.
const ForceOnce = "true"

// forceWordAgain is what every other word looks like: nobody takes it for yes or no, or
// writes it by habit.
var forceWordAgain = regexp.MustCompile(`^AGAIN-[A-Za-z0-9._-]{1,64}$`)

// CheckForceWord returns an error for what is no word to force a new cluster with.
func CheckForceWord(word string) error {
	if word == ForceOnce || forceWordAgain.MatchString(word) {
		return nil
	}
	return notForced("%.80q is not a valid word: give the flag without a value, or, to force the data once more, with a word that was not used before, such as AGAIN-2 (AGAIN-, then letters, digits, '.', '_', '-')", word)
}

// CheckForce returns a *ForceError if a data directory was forced before and word is not a
// new one. It looks at the identity only; Run looks at the log too.
func CheckForce(dir, word string) error {
	id, err := loadIdentity(dir)
	if err != nil {
		return nil // Open tells about it
	}
	return wordIsNew(id.Forced, word)
}

// wordIsNew refuses a word with which this was done already.
func wordIsNew(forced []Forcing, word string) error {
	if len(forced) == 0 {
		return nil
	}
	at := slices.IndexFunc(forced, func(f Forcing) bool { return f.Word == word })
	if at < 0 && word != ForceOnce {
		return nil
	}
	f := forced[max(at, 0)]
	reason := fmt.Sprintf("this was done already, on %s by %s, at entry %d of the log, and is done only once: remove it from the command line, the unit, or the environment (ONCEKV_FORCE_NEW_CLUSTER), and start the node without it. "+
		"If a majority is lost once more, give a word that was not used before: --force-new-cluster=AGAIN-%d", f.when(), f.By, f.Index, len(forced)+1)
	return &ForceError{Reason: reason, Done: &f}
}

// foresee returns the member table after the entries behind applied. It leaves out an entry
// beyond spared that removes this node: nobody may have carried it out, and this may be the
// last copy.
func (n *Node) foresee(members *table, applied uint64, entries []raftpb.Entry, spared uint64) (*table, error) {
	copied, err := members.encode()
	if err != nil {
		return nil, err
	}
	t, err := decodeTable(copied)
	if err != nil {
		return nil, err
	}
	forcedAt := lastForced(entries)
	for _, e := range entries {
		if e.Type != raftpb.EntryConfChange || e.Index <= applied {
			continue
		}
		c, _, err := decodeChange(e.Data)
		if err != nil || t.check(c) != nil {
			continue
		}
		if c.Op == opRemove && c.Member.ID == n.self.ID && (e.Index < forcedAt || e.Index > spared) {
			continue
		}
		t.apply(c, confAfter(t.conf, c))
	}
	return t, nil
}

// survivor returns the member table at the end of the log, of which this node must be a
// member.
func (n *Node) survivor(st *diskState, members *table, applied uint64) (*table, error) {
	t, err := n.foresee(members, applied, st.entries, max(st.state.Commit, applied))
	if err != nil {
		return nil, err
	}
	if _, ok := t.members[n.self.ID]; ok {
		return t, nil
	}
	if t.removed[n.self.ID] {
		return nil, notForced("this node was removed from its cluster; force the new one on another survivor")
	}
	return nil, notForced("it needs a node that belongs to a cluster; %s holds no member table", n.cfg.Dir)
}

// mayForce returns how a new cluster is to be forced, nil if this start only has to finish
// what another began, or why it must not be forced.
func (n *Node) mayForce(ctx context.Context, st *diskState) (*Forcing, error) {
	durable, err := durableOf(n.sm)
	if err != nil {
		return nil, err
	}
	applied, members := durable.index, durable.members
	if s := st.snapshot; s.Metadata.Index > applied { // its installation is not finished
		d, err := decodeSnapshot(s.Data)
		if err != nil {
			return nil, err
		}
		applied, members = s.Metadata.Index, d.members
	}
	t, err := n.survivor(st, members, applied)
	if err != nil {
		return nil, err
	}
	word := n.cfg.ForceNewCluster
	if t.cluster != n.self.ClusterID && len(t.forced) > 0 && t.forced[len(t.forced)-1].Word == word {
		return nil, nil
	}
	if err := wordIsNew(t.forced, word); err != nil {
		return nil, err
	}
	if err := n.askVoters(ctx, t); err != nil {
		return nil, err
	}
	history := newHistory()
	return &Forcing{Word: word, At: time.Now().UTC().Truncate(time.Second), Cluster: history.cluster(), History: history}, nil
}

// askVoters refuses while another voter answers: a majority may be there, or a part of it
// that has what this node lacks and would continue the old cluster. Members that do not
// answer count as lost.
func (n *Node) askVoters(ctx context.Context, t *table) error {
	others := n.others(t.list())
	var said []string
	for i, a := range n.introductions(ctx, others, "") {
		said = append(said, n.objection(&a, t, others[i].PeerURL))
	}
	if err := ctx.Err(); err != nil {
		return err // who was not asked is not lost
	}
	said = slices.DeleteFunc(said, func(s string) bool { return s == "" })
	slices.Sort(said)
	if said = slices.Compact(said); len(said) == 0 {
		return nil
	}
	return notForced("it is only for a cluster whose other voters are permanently lost, but %s. Nothing was changed. "+
		"If a majority of the voters can run, start this node without it, and remove the lost ones: oncekv members remove NAME. "+
		"Otherwise stop for good what answers, and start this node with it again", strings.Join(said, ", and "))
}

// objection is why no new cluster may be forced while a node answers. It is empty for a
// learner, this node under another URL, and a stranger.
func (n *Node) objection(a *introduction, t *table, url string) string {
	if a.ID == n.self.ID {
		return ""
	}
	if f, ended := endedIn(a.Forced, n.self.ClusterID); ended && a.ClusterID != n.self.ClusterID {
		return fmt.Sprintf("%s answers at %s, and belongs to a cluster that was forced out of this one on %s", a.Name, url, f.when())
	}
	if a.ClusterID != n.self.ClusterID {
		return ""
	}
	m, known := t.members[a.ID]
	for _, x := range a.Members { // it may know of a promotion that this node missed
		if x.ID == a.ID {
			m, known = x, true
		}
	}
	if !known || m.Learner {
		return ""
	}
	return fmt.Sprintf("the voter %s answers at %s", a.Name, url)
}

// forceNewCluster appends the committed entry that makes this node the only member of a new
// cluster, with everything it has. Entries that the lost majority may have acknowledged
// count as committed.
func (n *Node) forceNewCluster(st *diskState, members *table, applied uint64, f Forcing) error {
	t, err := n.survivor(st, members, applied)
	if err != nil {
		return err
	}
	last, term := st.snapshot.Metadata.Index, max(st.state.Term, st.snapshot.Metadata.Term)
	if k := len(st.entries); k > 0 {
		last, term = st.entries[k-1].Index, max(term, st.entries[k-1].Term)
	}
	f.By, f.Parent, f.Index = n.self.Name, t.cluster, last+1
	cc, err := change{Op: opForce, Member: t.members[n.self.ID], Forcing: &f}.confChange()
	if err != nil {
		return err
	}
	data, err := cc.Marshal()
	if err != nil {
		return fmt.Errorf("encode conf change: %w", err)
	}
	e := raftpb.Entry{Type: raftpb.EntryConfChange, Index: f.Index, Term: term, Data: data}
	st.entries = append(st.entries, e)
	st.state.Term, st.state.Commit = term, f.Index
	n.logger.Warn("forcing a new cluster of this node alone", "cluster", f.Cluster.String(), "history", f.History.String(), "before", f.Parent.String(), "removed", len(t.members)-1, "index", f.Index, "word", f.Word)
	return n.disk.save(st.state, st.entries[len(st.entries)-1:], true)
}

// followForced makes the identity that of the cluster to which the log has led: it is
// behind after a crash, or when it is a copy from before. Any other cluster means that the
// data is another node's.
func (n *Node) followForced(st *diskState, members *table, applied uint64) error {
	t, err := n.foresee(members, applied, st.entries, st.state.Commit)
	if err != nil || t.cluster == n.self.ClusterID {
		return err
	}
	if _, ended := endedIn(t.forced, n.self.ClusterID); !ended {
		return fmt.Errorf("%w: the store in %s belongs to cluster %v, the identity to %v; %s", errMixedUp, n.cfg.Dir, t.cluster, n.self.ClusterID, putBack)
	}
	n.self.ClusterID, n.self.Forced, n.self.Ended = t.cluster, t.forced, nil
	n.forced.Store(&n.self.Forced)
	return n.keepSelf()
}
