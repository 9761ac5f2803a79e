package adminui

import (
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/client"
)

func TestHealth(t *testing.T) {
	up, down := Condition{Status: StatusUp}, Condition{Status: StatusDown, Reason: "nothing listens at its address"}
	voter := func(name string, c Condition) Member {
		return Member{Name: name, Role: client.RoleFollower, Condition: c}
	}
	learner := func(name string, c Condition) Member {
		return Member{Name: name, Role: client.RoleLearner, Condition: c}
	}
	with := func(m Member, s client.Stats) Member { m.Stats = &s; return m }
	node := func(name string, c Condition) Cache { return Cache{Name: name, Condition: c} }
	for name, tt := range map[string]struct {
		state    State
		level    string
		sentence string
		problems int
	}{
		"nobody": {State{}, LevelUnknown, "No database node has answered yet.", 1},
		"well": {State{Leader: "n1", Members: []Member{voter("n1", up), voter("n2", up), voter("n3", up)}, Caches: []Cache{node("c1", up)}},
			LevelOK, "All is well: 3 database nodes led by n1, 1 cache node.", 0},
		"one voter down": {State{Leader: "n1", Members: []Member{voter("n1", up), voter("n2", up), voter("n3", down)}},
			LevelWarning, "n3 is down, one of the voters: everything works, but the loss of one more would stop puts.", 1},
		"one of five down": {State{Leader: "n1", Members: []Member{voter("n1", up), voter("n2", up), voter("n3", down), voter("n4", up), voter("n5", up)}},
			LevelWarning, "n3 is down, one of the voters: everything works, and 1 more may fail.", 1},
		"no quorum": {State{Leader: "", Members: []Member{voter("n1", up), voter("n2", down), voter("n3", down)}},
			LevelCritical, "No quorum: 1 of 3 voters answer and 2 are needed.", 1},
		"unreachable but led": {State{Leader: "n2", Members: []Member{voter("n1", up), voter("n2", down), voter("n3", down)}},
			LevelWarning, "Only 1 of 3 voters answer here, although n2 leads", 1},
		"nobody answers": {State{Members: []Member{voter("n1", down), voter("n2", down), voter("n3", down)}},
			LevelCritical, "No voter answers", 1},
		"learners do not vote": {State{Leader: "n1", Members: []Member{voter("n1", up), learner("n2", down), learner("n3", down)}},
			LevelWarning, "Learner n2 is down", 2},
		"no leader": {State{Members: []Member{voter("n1", up), voter("n2", up), voter("n3", down)}},
			LevelCritical, "No leader", 1},
		"catching up": {State{Leader: "n1", Members: []Member{voter("n1", up), voter("n2", Condition{Status: StatusStarting, Reason: "catching up: 9000 entries to go"})}},
			LevelWarning, "n2 is not ready: catching up: 9000 entries to go.", 1},
		"disk low": {State{Leader: "n1", Members: []Member{voter("n1", up), with(voter("n2", up), client.Stats{DiskLow: true})}},
			LevelCritical, "The disk of n2 is below its reserve", 1},
		"histories differ": {State{Leader: "n1", Members: []Member{
			with(voter("n1", up), client.Stats{Revision: 70000, Digest: "x", Checkpoints: []client.Checkpoint{{Revision: 65536, Digest: "a"}}}),
			with(voter("n2", up), client.Stats{Revision: 65536, Digest: "b"}),
		}}, LevelCritical, "The histories of n1 and n2 differ at revision 65536", 1},
		"the worst first": {State{Members: []Member{voter("n1", up)}, Caches: []Cache{node("c1", down), node("c2", down), node("c3", up)}},
			LevelCritical, "No leader", 2},
		"caches down": {State{Leader: "n1", Members: []Member{voter("n1", up)}, Caches: []Cache{node("c1", down), node("c2", down), node("c3", up)}},
			LevelWarning, "c1, c2 are down, 2 of the cache nodes: the others own their keys now.", 1},
		"a cache stopped": {State{Leader: "n1", Members: []Member{voter("n1", up)}, Caches: []Cache{{Name: "c1", Condition: down, Left: true}, node("c2", up)}},
			LevelOK, "All is well: 1 database node led by n1, 1 cache node.", 0},
		"all caches down": {State{Leader: "n1", Members: []Member{voter("n1", up)}, Caches: []Cache{node("c1", down)}},
			LevelWarning, "No cache node answers", 1},
		"cache without a database": {State{Leader: "n1", Members: []Member{voter("n1", up)}, Caches: []Cache{node("c1", Condition{Status: StatusStarting})}},
			LevelWarning, "c1: no database node answers there", 1},
	} {
		h := healthOf(&tt.state, []string{"http://seed"})
		if h.Level != tt.level || !strings.HasPrefix(h.Sentence, tt.sentence) || len(h.Problems) != tt.problems {
			t.Errorf("%s: %+v", name, h)
		}
	}
}
