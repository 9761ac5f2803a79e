package raftnode

import (
	"errors"
	"strings"
	"testing"
)

// Every rule by which replicas judge a change of members, one by one.
func TestTable_Check_Rules(t *testing.T) {
	t.Parallel()
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

// Each change is for one table, and none but a forcing is for any.
func TestTable_Check_Numbers(t *testing.T) {
	m := Member{ID: 1, Name: "a", PeerURL: "http://a:1", ClientURL: "http://a:2"}
	tab := foundersTable(9, []Member{m})
	raw, err := tab.encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"cluster_id":"0000000000000009","conf":{"voters":[1]},"members":[{"id":"0000000000000001","name":"a","peer_url":"http://a:1","client_url":"http://a:2"}],"level":1}`; string(raw) != want {
		t.Errorf("the table of a new cluster is %s", raw)
	}
	for _, ch := range []change{{Op: opUpdate, Member: m}, {Op: opUpdate, Member: m, Number: 2}, {Op: opRaise, Member: m, Level: 2}} {
		if err := tab.check(ch); !errors.Is(err, errChanged) {
			t.Errorf("%+v for the first table: %v", ch, err)
		}
	}
	numbered := change{Op: opUpdate, Member: m, Number: 1}
	if err := tab.check(numbered); err != nil {
		t.Fatal(err)
	}
	tab.apply(numbered, tab.conf)
	if err := tab.check(numbered); !errors.Is(err, errChanged) {
		t.Errorf("the same change again: %v", err)
	}
	if err := tab.check(change{Op: opForce, Member: m, Forcing: &Forcing{Parent: 9, Cluster: 10, History: historyOfCluster(10)}}); err != nil {
		t.Errorf("a forcing: %v", err)
	}
	if raw, err = tab.encode(); err != nil {
		t.Fatal(err)
	}
	again, err := decodeTable(raw)
	if err != nil || again.changed != 1 {
		t.Errorf("read back: number %d, %v", again.changed, err)
	}
}
