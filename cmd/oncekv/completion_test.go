package main

import (
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestCompletion_Scripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		runCommand(t, nil, nil, "completion", shell).want(t, exitDone).wantStdout(t, "oncekv")
	}
}

func TestCompletion_MemberNames(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() {
		f.members = api.Members{Members: []api.Member{{Name: "n1", Role: api.RoleLeader}, {Name: "n2", Role: api.RoleFollower}}}
	})
	for _, sub := range []string{"remove", "promote", "leader"} {
		r := f.command(t, nil, "__complete", "members", sub, "").want(t, exitDone)
		for try := 1; try < 20 && !strings.Contains(r.stdout, "n1"); try++ { // completion waits only half a second for the cluster
			r = f.command(t, nil, "__complete", "members", sub, "").want(t, exitDone)
		}
		r.wantStdout(t, "n1\tleader", "n2\tfollower")
	}
	f.Close()
	f.command(t, nil, "__complete", "members", "remove", "").want(t, exitDone)
	f.command(t, nil, "__complete", "be").want(t, exitDone).wantStdout(t, "bench\t")
}
