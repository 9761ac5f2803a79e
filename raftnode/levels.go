package raftnode

import (
	"context"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// Members may run different versions of the program, and all must carry out the same. So
// the store has a level in the member table (see internal/level), which never falls: a
// leader logs nothing above it, and raises it only when every member has said that it knows
// the higher one. A node stops before it would carry out something above what it knows, and
// goes on from there with a later version.

// checkLevels refuses a start of a program that does not know the level of the state, or of
// what is committed and not applied. A forcing commits all that is in the log.
func (n *Node) checkLevels(st *diskState, members *table, applied uint64) error {
	committed := st.entries
	for len(committed) > 0 && n.forcing == nil && committed[len(committed)-1].Index > st.state.Commit {
		committed = committed[:len(committed)-1]
	}
	for i := range committed {
		if committed[i].Index <= applied {
			continue
		}
		if err := checkKnown(&committed[i], n.cfg.Level); err != nil {
			return err
		}
	}
	t, err := n.foresee(members, applied, committed, st.state.Commit)
	if err == nil && t.level > n.cfg.Level {
		err = later(fmt.Sprintf("what is in %s", n.cfg.Dir), t.level, n.cfg.Level)
	}
	return err
}

// raiseEvery is about how often a leader that knows a higher level than the store's asks
// the others.
const raiseEvery = 2 * time.Second

// keepRaising raises the store's level as far as all members can follow, while this node
// leads. It returns when ctx ends.
func (n *Node) keepRaising(ctx context.Context) {
	ticker := time.NewTicker(raiseEvery/2 + time.Duration(random64()%uint64(raiseEvery))) // not at the time of others
	defer ticker.Stop()
	tell := teller{node: n, message: "the store's level rises when every member runs a version that knows a higher one"}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if st := n.status.Load(); st.Role == RoleLeader && st.Level < st.Known {
			if missing := n.raise(ctx, st); len(missing) > 0 {
				tell.missing(missing)
			}
		}
	}
}

// raise proposes the highest level that all members know, learners too, if the store's is
// lower, or returns who stands in the way. The change is refused when others have joined
// who were not asked.
func (n *Node) raise(ctx context.Context, st *Status) (missing []string) {
	others, highest := n.others(st.Members), st.Known
	for i, a := range n.introductions(ctx, others, "") {
		switch m := others[i]; {
		case a.err != nil:
			missing = append(missing, fmt.Sprintf("%s (%s: %s)", m.Name, m.PeerURL, nodehttp.Reason(a.err)))
		case a.ID != m.ID || a.ClusterID != st.ClusterID:
			missing = append(missing, fmt.Sprintf("%s (%s: another node is there)", m.Name, m.PeerURL))
		case a.Level <= st.Level:
			missing = append(missing, fmt.Sprintf("%s (knows level %d)", m.Name, a.Level))
		default:
			highest = min(highest, a.Level)
		}
	}
	if len(missing) > 0 {
		return missing
	}
	_ = n.call(ctx, func(c *core) { // if it comes to nothing: tried again
		if c.isLeader() && c.members.changed == st.changed && len(c.changes) == 0 {
			c.startChange(change{Op: opRaise, Member: Member{ID: c.id}, Level: highest}, nil)
		}
	})
	return nil
}
