package main

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestMembers(t *testing.T) {
	f := newFakeAPI(t)
	members := api.Members{Leader: "n2", Term: 7, Members: []api.Member{
		{ID: "ab", Name: "n1", Role: api.RoleFollower, Healthy: true, ClientURL: "http://h:1", PeerURL: "http://h:2", Revision: 42},
		{ID: "cd", Name: "n2", Role: api.RoleLeader, Healthy: true},
	}}
	f.locked(func() { f.members = members })
	for _, args := range [][]string{{"members"}, {"members", "list"}} {
		f.command(t, nil, args...).want(t, exitDone).wantStdout(t, "NAME", "n1", "follower", "42", "http://h:2", "n2", "leader")
	}
	var got api.Members
	must(t, json.Unmarshal([]byte(f.command(t, nil, "members", "--json").want(t, exitDone).stdout), &got))
	if got.Leader != "n2" || len(got.Members) != 2 {
		t.Fatalf("%+v", got)
	}
	if r := f.command(t, nil, "members", "leader").want(t, exitDone); r.stdout != "n2\n" {
		t.Fatalf("leader %q", r.stdout)
	}
	f.locked(func() { f.members.Stale = true })
	f.command(t, nil, "members").want(t, exitDone).wantStderr(t, "no quorum")
}

func TestMembers_Changes(t *testing.T) {
	f := newFakeAPI(t)
	f.command(t, nil, "members", "add", "n4", "--id", "ef", "--peer-url", "http://h:3", "--client-url", "http://h:4").want(t, exitDone).wantStdout(t, "added n4 as learner")
	f.command(t, nil, "members", "add", "n5", "--peer-url", "http://h:5", "--client-url", "http://h:6", "--role", "learner", "--level", "3").want(t, exitDone)
	f.command(t, nil, "members", "remove", "n3", "--force", "--yes").want(t, exitDone).wantStdout(t, "removed n3")
	f.command(t, nil, "members", "promote", "n4", "--json").want(t, exitDone).wantStdout(t, `{"done":"promoted","name":"n4"}`)
	f.command(t, nil, "members", "transfer", "n1").want(t, exitDone).wantStdout(t, "n1")
	f.command(t, nil, "members", "remove", "n9", "--yes").want(t, exitFailed).wantStderr(t, "would lose quorum")
	want := []string{
		`POST /members {"id":"ef","name":"n4","peer_url":"http://h:3","client_url":"http://h:4","role":"voter","level":1}`,
		`POST /members {"name":"n5","peer_url":"http://h:5","client_url":"http://h:6","role":"learner","level":3}`,
		`DELETE /members/n3?force=true `,
		`POST /members/n4/promote `,
		`POST /leader {"to":"n1"}`,
		`DELETE /members/n9 `,
	}
	f.locked(func() {
		if !slices.Equal(f.changes, want) {
			t.Errorf("requests %q", f.changes)
		}
	})
}
