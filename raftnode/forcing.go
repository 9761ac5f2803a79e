package raftnode

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// Forcing is how a cluster was forced out of another one.
type Forcing struct {
	Word    string    `json:"word"` // that it was forced with; each works once
	At      time.Time `json:"at"`
	By      string    `json:"by"`         // name of the member that stayed
	Index   uint64    `json:"index"`      // of the entry
	Parent  ID        `json:"parent"`     // cluster that ended
	Cluster ID        `json:"cluster_id"` // cluster that began
	History historyID `json:"history"`    // that began with it
}

// when is the time in the words of a sentence.
func (f *Forcing) when() string { return f.At.UTC().Format("2006-01-02 15:04:05 UTC") }

// lastForced is the index of the newest entry that forced a new cluster, zero if
// there is none.
func lastForced(entries []raftpb.Entry) uint64 {
	for _, e := range slices.Backward(entries) {
		if isForcing(&e) {
			return e.Index
		}
	}
	return 0
}

func isForcing(e *raftpb.Entry) bool {
	if e.Type != raftpb.EntryConfChange {
		return false
	}
	c, _, err := decodeChange(e.Data)
	return err == nil && c.Op == opForce
}

// endedIn finds the forcing that ended a cluster.
func endedIn(forced []Forcing, cluster ID) (*Forcing, bool) {
	at := slices.IndexFunc(forced, func(f Forcing) bool { return f.Parent == cluster })
	if at < 0 {
		return nil, false
	}
	return &forced[at], true
}

// descends reports whether a cluster was forced out of another one, through any number
// of clusters in between.
func descends(forced []Forcing, from, cluster ID) bool {
	for _, f := range forced {
		if f.Parent == from {
			from = f.Cluster
		}
	}
	return from == cluster && slices.ContainsFunc(forced, func(f Forcing) bool { return f.Cluster == cluster })
}

// confAfter is what raft makes of a change; needed only where no raft runs.
func confAfter(cs raftpb.ConfState, c change) raftpb.ConfState {
	id := uint64(c.Member.ID)
	without := func(ids []uint64) (rest []uint64) {
		for _, x := range ids {
			if x != id {
				rest = append(rest, x)
			}
		}
		return rest
	}
	switch c.Op {
	case opAdd:
		cs.Learners = append(without(cs.Learners), id)
	case opPromote:
		cs.Learners = without(cs.Learners)
		cs.Voters = append(without(cs.Voters), id)
	case opRemove:
		cs.Learners, cs.Voters = without(cs.Learners), without(cs.Voters)
	case opForce:
		cs = raftpb.ConfState{Voters: []uint64{id}}
	}
	return cs
}

func notForced(format string, args ...any) error {
	return &ForceError{Reason: fmt.Sprintf(format, args...)}
}

// ForceError is why no new cluster was forced. Nothing was written. A start with the same
// settings ends alike as long as the reason stands.
type ForceError struct {
	Reason string
	Done   *Forcing // that was done with the data before and stands in the way, nil if none does
}

// Error returns the reason.
func (e *ForceError) Error() string { return e.Reason }
