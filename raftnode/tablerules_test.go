package raftnode

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/shortage"
)

// Every rule by which replicas judge a change of members, one by one.
func TestTable_Check_Rules(t *testing.T) {
	tab := foundersTable(9, []Member{
		{ID: 1, Name: "n1", PeerURL: "http://n1:1", ClientURL: "http://n1:2"},
		{ID: 2, Name: "n2", PeerURL: "http://n2:1", ClientURL: "http://n2:2"},
	})
	tab.members[3] = Member{ID: 3, Name: "n3", PeerURL: "http://n3:1", ClientURL: "http://n3:2", Learner: true}
	tab.conf.Learners = []uint64{3}
	tab.removed[4] = true
	alone := foundersTable(9, []Member{{ID: 1, Name: "n1", PeerURL: "http://n1:1", ClientURL: "http://n1:2"}})
	member := func(id ID, name string) Member {
		return Member{ID: id, Name: name, PeerURL: "http://new:1", ClientURL: "http://new:2", Level: 3}
	}
	tab.level = 3
	of := func(m Member, level uint64) Member { m.Level = level; return m }
	at := func(m Member, peer string) Member { m.PeerURL = peer; return m }
	for _, c := range []struct {
		tab  *table
		op   changeOp
		m    Member
		kind error
		want string
	}{
		{tab, opAdd, member(5, "n5"), nil, ""},
		{tab, opAdd, at(member(5, "n5"), "nowhere"), ErrBadMember, "peer_url"},
		{tab, opAdd, member(4, "n4"), ErrRefused, "ids are never used again"},
		{tab, opAdd, member(1, "n1"), ErrRefused, "is a member already"},
		{tab, opAdd, member(5, "n1"), ErrRefused, "remove it first"},
		{tab, opAdd, at(member(5, "n5"), "http://n2:1"), ErrRefused, "belongs to n2"},
		{tab, opUpdate, member(1, "n1"), nil, ""},
		{tab, opUpdate, at(member(1, "n1"), "http://n1:1"), nil, ""},
		{tab, opUpdate, at(member(1, "n1"), "nowhere"), ErrBadMember, "peer_url"},
		{tab, opUpdate, member(5, "n5"), ErrUnknownMember, "n5"},
		{tab, opUpdate, member(1, "n9"), ErrUnknownMember, "n9"},
		{tab, opUpdate, at(member(1, "n1"), "http://n2:1"), ErrRefused, "belongs to n2"},
		{tab, opPromote, Member{ID: 3}, nil, ""},
		{tab, opPromote, Member{ID: 1}, ErrRefused, "votes already"},
		{tab, opPromote, Member{ID: 5}, ErrUnknownMember, "id"},
		{tab, opRemove, Member{ID: 1}, nil, ""},
		{tab, opRemove, Member{ID: 3}, nil, ""},
		{tab, opRemove, Member{ID: 5}, ErrUnknownMember, "id"},
		{alone, opRemove, Member{ID: 1}, ErrRefused, "only voter"},
		{tab, opRaise, Member{ID: 1}, ErrRefused, "level 3 already"},
		{tab, opRaise, Member{ID: 5}, ErrUnknownMember, "id"},
		{tab, opAdd, of(member(5, "n5"), 2), ErrRefused, "the store has level 3, and the program of n5 knows up to level 2"},
		{tab, opAdd, of(member(5, "n5"), 0), ErrRefused, "knows up to level 1"},
		{tab, opAdd, of(member(5, "n5"), 4), nil, ""},
		{alone, opAdd, of(member(5, "n5"), 0), nil, ""},
		{tab, "paint", Member{ID: 1}, ErrBadMember, "no operation"},
	} {
		err := c.tab.check(change{Op: c.op, Member: c.m, Level: 3, Number: 1})
		if !errors.Is(err, c.kind) || (err == nil) != (c.kind == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s of %+v: %v, want %v with %q", c.op, c.m, err, c.kind, c.want)
		}
	}
}

// What a node says of its own part.
func TestNode_Publish_Roles(t *testing.T) {
	c, f := follower(t)
	role := func(n *Node) Role {
		n.seen = statusSource{}
		n.publish()
		return n.Status().Role
	}
	if got := role(f.node); got != RoleFollower {
		t.Errorf("a follower calls itself %s", got)
	}
	if got := role(c.nodes[ID(f.node.core.lead)].node); got != RoleLeader {
		t.Errorf("the leader calls itself %s", got)
	}
	m := f.node.core.members.members[f.id]
	m.Learner = true
	f.node.core.members.members[f.id] = m
	if got := role(f.node); got != RoleLearner {
		t.Errorf("a learner calls itself %s", got)
	}
	clear(f.node.core.members.members)
	if got := role(f.node); got != RoleLearner {
		t.Errorf("a node that has just joined calls itself %s", got)
	}
}

// A system that is short of something is waited for. A disk that fails is not.
func TestNode_Later_ForgivesShortageOnly(t *testing.T) {
	_, f := follower(t)
	for _, c := range []struct {
		err      error
		forgiven bool
	}{{nil, true}, {fmt.Errorf("open: %w", shortage.Err), true}, {fmt.Errorf("%w: write", errDisk), false}, {syscall.EIO, false}} {
		if err := f.node.later(c.err, "a snapshot"); (err == nil) != c.forgiven {
			t.Errorf("%v becomes %v", c.err, err)
		}
	}
}
