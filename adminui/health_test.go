package adminui

import (
	"slices"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// Every state that a cluster can be in, in words: exactly these.
func TestHealth(t *testing.T) {
	t.Parallel()
	up, down := Condition{Status: StatusUp}, Condition{Status: StatusDown, Reason: "nothing listens at its address"}
	starting := func(why string) Condition { return Condition{Status: StatusStarting, Reason: why} }
	voter := func(name string, c Condition) Member {
		return Member{Name: name, Role: api.RoleFollower, Condition: c, Healthy: true}
	}
	learner := func(name string, c Condition) Member {
		return Member{Name: name, Role: api.RoleLearner, Condition: c, Healthy: true}
	}
	unheard := func(m Member) Member { m.Healthy = false; return m }
	alone := func(m Member) Member { m.outOfTouch = true; return m }
	with := func(m Member, s api.Stats) Member { m.Stats = &s; return m }
	unknown := func(name string) Cache { return Cache{Name: name, Condition: down} }
	node := func(name string, c Condition) Cache {
		return Cache{Name: name, Condition: c, Stats: &api.CacheStats{}}
	}
	stopped := func(name string) Cache {
		return Cache{Name: name, Condition: down, Left: true, Stats: &api.CacheStats{}}
	}
	in := func(history string, s State) State { s.History = &api.History{ID: history}; return s }
	stands := func(history, name string) Cache {
		c := Cache{Name: name, Condition: up, Stats: &api.CacheStats{}}
		if history != "" {
			c.Stats.History = &api.History{ID: history}
		}
		return c
	}
	led := func(members ...Member) State { return State{Leader: "n1", Revision: 1, Members: members} }
	unled := func(members ...Member) State { return State{Revision: 1, Members: members} }
	caches := func(s State, caches ...Cache) State { s.Caches = caches; return s }
	empty := func(s State) State { s.Revision = 0; return s }
	three := led(voter("n1", up), voter("n2", up), voter("n3", up))
	const (
		well      = "All is well: 3 database nodes led by n1, of which one may fail."
		threeAll  = "3 voters: one of them may fail."
		threeLess = "3 voters, of which 2 can be counted on: none of them may fail."
	)

	for name, tt := range map[string]struct {
		state     State
		outsiders []outsider
		level     string
		voters    string
		sentences []string // of what is shown: the one sentence, and the others
	}{
		"nothing is known": {State{}, []outsider{{"http://a:1", "http://a:1", down}}, LevelUnknown, "", []string{
			"No database node has answered yet.",
			"http://a:1: nothing listens at its address.",
			"Start a database node, or give the admin the URL of a running one with --nodes. The admin keeps asking.",
		}},
		"forming": {State{}, []outsider{{"http://a:1", "n1", up}, {"http://b:1", "http://b:1", down}}, LevelWarning, "", []string{
			"There is no cluster yet: n1 waits for the other nodes.",
			"http://b:1: nothing listens at its address.",
			"Start every node of the initial cluster. The log of a waiting node names the missing ones.",
		}},
		"two of three form": {State{}, []outsider{{"http://a:1", "n1", up}, {"http://b:1", "n2", up}}, LevelWarning, "", []string{
			"There is no cluster yet: n1 and n2 wait for the other nodes.",
			"Start every node of the initial cluster. The log of a waiting node names the missing ones.",
		}},
		"well":   {three, nil, LevelOK, threeAll, []string{well}},
		"empty":  {empty(three), nil, LevelOK, threeAll, []string{well + " No key is set yet."}},
		"caches": {caches(three, node("c1", up), node("c2", up)), nil, LevelOK, threeAll, []string{"All is well: 3 database nodes led by n1, of which one may fail, and 2 cache nodes."}},
		"five":   {led(voter("n1", up), voter("n2", up), voter("n3", up), voter("n4", up), voter("n5", up)), nil, LevelOK, "5 voters: 2 of them may fail.", []string{"All is well: 5 database nodes led by n1, of which 2 may fail."}},
		"one":    {led(voter("n1", up)), nil, LevelOK, "1 voter: it may not fail.", []string{"All is well: 1 database node led by n1.", "There is only one voter, so there is no copy of its data. Of three, one may fail."}},
		"two":    {led(voter("n1", up), voter("n2", up)), nil, LevelWarning, "2 voters: none of them may fail.", []string{"There are only 2 voters: everything works, but the loss of one would stop puts. Add a third."}},
		"four":   {led(voter("n1", up), voter("n2", up), voter("n3", up), voter("n4", up)), nil, LevelOK, "4 voters: one of them may fail.", []string{"All is well: 4 database nodes led by n1, of which one may fail.", "Of 4 voters no more may fail than of 3. Add one, or remove one."}},
		"one down": {led(voter("n1", up), voter("n2", up), voter("n3", down)), nil, LevelWarning, threeLess,
			[]string{"n3 is down, of 3 voters. Everything works; the loss of one more would stop puts. Start it again, or replace it."}},
		"one of five down": {led(voter("n1", up), voter("n2", up), voter("n3", down), voter("n4", up), voter("n5", up)), nil, LevelWarning, "5 voters, of which 4 can be counted on: one of them may fail.",
			[]string{"n3 is down, of 5 voters. Everything works; one of them may fail. Start it again, or replace it."}},
		"two of five down": {led(voter("n1", up), voter("n2", down), voter("n3", down), voter("n4", up), voter("n5", up)), nil, LevelWarning, "5 voters, of which 3 can be counted on: none of them may fail.",
			[]string{"n2 and n3 are down, of 5 voters. Everything works; the loss of one more would stop puts. Start them again, or replace them."}},
		"no quorum": {unled(voter("n1", up), voter("n2", down), voter("n3", down)), nil, LevelCritical, "3 voters, of which 1 can be counted on: 2 are needed.",
			[]string{"No quorum: 1 of 3 voters answers, and 2 are needed. Puts wait, and it cannot be confirmed that a key is not set; values that are set can still be read. Start n2 and n3 again."}},
		"the admin is partly cut off": {State{Leader: "n2", Revision: 1, Members: []Member{voter("n1", up), voter("n2", down), voter("n3", down)}}, nil, LevelWarning, "3 voters, of which 1 can be counted on: 2 are needed.",
			[]string{"Only 1 of 3 voters answers the admin, although n2 leads: the others have just gone down, or the admin cannot reach them."}},
		"nobody answers": {unled(voter("n1", down), voter("n2", down), voter("n3", down)), nil, LevelCritical, "3 voters, of which 0 can be counted on: 2 are needed.",
			[]string{"No database node with a vote answers: all are down, or the admin cannot reach them. Nothing can be put or read. The admin keeps asking."}},
		"nobody but a cache answers": {caches(unled(voter("n1", down)), node("c1", up), node("c2", down)), nil, LevelCritical, "1 voter, of which 0 can be counted on: 1 are needed.", []string{
			"No database node with a vote answers: all are down, or the admin cannot reach them. Nothing can be put, and only cached values can be read. The admin keeps asking.",
			"c2 is down, of 2 cache nodes. Those that are up serve all keys. Start it again.",
		}},
		"nobody and no cache answers": {caches(unled(voter("n1", down)), node("c1", down), stopped("c2")), nil, LevelCritical, "1 voter, of which 0 can be counted on: 1 are needed.", []string{
			"No database node with a vote answers: all are down, or the admin cannot reach them. Nothing can be put or read. The admin keeps asking.",
			"No cache node answers. Start c1 again.",
		}},
		"nobody answers but learners": {unled(voter("n1", down), learner("n2", up)), nil, LevelCritical, "1 voter, of which 0 can be counted on: 1 are needed.", []string{
			"No database node with a vote answers: all are down, or the admin cannot reach them. Nothing can be put; values that are set can still be read. The admin keeps asking.",
		}},
		"caches that never answered": {caches(three, node("c1", up), unknown("x1"), unknown("x2")), nil, LevelWarning, threeAll,
			[]string{"2 cache nodes have never answered the admin: they are starting, or it cannot reach them, or they do not exist."}},
		"no cache ever answered": {caches(three, unknown("x1"), stopped("c2")), nil, LevelWarning, threeAll, []string{
			"1 cache node has never answered the admin: it is starting, or the admin cannot reach it, or it does not exist.",
		}},
		"a cache is down beside one that never answered": {caches(three, node("c1", down), node("c2", up), unknown("x1")), nil, LevelWarning, threeAll, []string{
			"c1 is down, of 2 cache nodes. Those that are up serve all keys. Start it again.",
			"1 cache node has never answered the admin: it is starting, or the admin cannot reach it, or it does not exist.",
		}},
		"no leader": {unled(voter("n1", up), voter("n2", up), voter("n3", up)), nil, LevelCritical, threeAll,
			[]string{"No leader: puts wait until the voters have elected one. That takes seconds if they reach one another at their peer URLs."}},
		"cut off from the others": {led(voter("n1", up), voter("n2", up), alone(voter("n3", starting("it knows no leader yet")))), nil, LevelWarning, threeLess,
			[]string{"n3 answers the admin, but the other nodes do not hear it; the loss of one more would stop puts."}},
		"not heard by the others": {led(voter("n1", up), voter("n2", up), unheard(voter("n3", up))), nil, LevelWarning, threeLess,
			[]string{"n3 answers the admin, but the other nodes do not hear it; the loss of one more would stop puts."}},
		"a voter catches up": {led(voter("n1", up), voter("n2", up), voter("n3", starting("catching up: 9000 entries to go"))), nil, LevelWarning, threeAll,
			[]string{"n3 is not ready: catching up: 9000 entries to go."}},
		"a learner catches up": {led(voter("n1", up), voter("n2", up), voter("n3", up), learner("n4", starting("catching up: 9000 entries to go"))), nil, LevelOK, threeAll,
			[]string{"All is well: 4 database nodes led by n1, of which one may fail.", "Learner n4 is catching up: 9000 entries to go."}},
		"a learner never came": {led(voter("n1", up), voter("n2", up), voter("n3", up), learner("n4", down)), nil, LevelWarning, threeAll,
			[]string{"Learner n4 has not been seen yet. Start it, or remove it."}},
		"a learner is down": {led(voter("n1", up), voter("n2", up), voter("n3", up), with(learner("n4", down), api.Stats{})), nil, LevelWarning, threeAll,
			[]string{"Learner n4 is down: nothing listens at its address."}},
		"learners do not vote": {led(voter("n1", up), learner("n2", down), learner("n3", down)), nil, LevelWarning, "1 voter: it may not fail.",
			[]string{"Learner n2 has not been seen yet. Start it, or remove it.", "Learner n3 has not been seen yet. Start it, or remove it.", "There is only one voter, so there is no copy of its data. Of three, one may fail."}},
		"disk low": {led(voter("n1", up), with(voter("n2", up), api.Stats{DiskLow: true}), voter("n3", up)), nil, LevelCritical, threeAll,
			[]string{"The disk of n2 is below its reserve: all puts are refused until it has room. Reads go on. Make room there."}},
		"disk of a dead node": {led(voter("n1", up), voter("n2", up), with(voter("n3", down), api.Stats{DiskLow: true})), nil, LevelWarning, threeLess,
			[]string{"n3 is down, of 3 voters. Everything works; the loss of one more would stop puts. Start it again, or replace it."}},
		"disk of a learner": {led(voter("n1", up), voter("n2", up), voter("n3", up), with(learner("n4", up), api.Stats{DiskLow: true})), nil, LevelWarning, threeAll,
			[]string{"The disk of learner n4 is nearly full. Make room there."}},
		"histories differ": {led(
			with(voter("n1", up), api.Stats{Revision: 70000, Digest: "x", Checkpoints: []api.Checkpoint{{Revision: 65536, Digest: "a"}}}),
			with(voter("n2", up), api.Stats{Revision: 65536, Digest: "b"}), voter("n3", up),
		), nil, LevelCritical, threeAll, []string{"The histories of n1 and n2 differ at revision 65536: one of their disks has returned wrong data. The log of the node at fault says more. Replace that node."}},
		"revisions of two histories": {led(
			with(voter("n1", up), api.Stats{Revision: 7, Digest: "x", History: &api.History{ID: "a"}}),
			with(voter("n2", up), api.Stats{Revision: 7, Digest: "y", History: &api.History{ID: "b"}}), voter("n3", up),
		), nil, LevelOK, threeAll, []string{well}},
		"caches of another history": {caches(in("b", three), stands("a", "c1"), stands("b", "c2"), stands("", "c3")), nil, LevelWarning, threeAll,
			[]string{"c1 has another history than the database nodes, and serves what was set there. If that lasts for more than a minute, restart it."}},
		"the worst first": {caches(unled(voter("n1", up), voter("n2", up), voter("n3", up)), node("c1", down), node("c2", up)), nil, LevelCritical, threeAll, []string{
			"No leader: puts wait until the voters have elected one. That takes seconds if they reach one another at their peer URLs.",
			"c1 is down, of 2 cache nodes. Those that are up serve all keys. Start it again.",
		}},
		"caches down": {caches(three, node("c1", down), node("c2", down), node("c3", up)), nil, LevelWarning, threeAll,
			[]string{"c1 and c2 are down, of 3 cache nodes. Those that are up serve all keys. Start them again."}},
		"a cache was stopped": {caches(three, stopped("c1"), node("c2", up)), nil, LevelOK, threeAll,
			[]string{"All is well: 3 database nodes led by n1, of which one may fail, and 1 cache node."}},
		"all caches were stopped": {caches(three, stopped("c1")), nil, LevelOK, threeAll,
			[]string{well, "All cache nodes were stopped: read from the database nodes."}},
		"all caches down": {caches(three, node("c1", down), stopped("c2")), nil, LevelWarning, threeAll,
			[]string{"No cache node answers: read from the database nodes meanwhile. Start c1 again."}},
		"a cache without a database": {caches(three, node("c1", starting("no database node answers it")), node("c2", down)), nil, LevelWarning, threeAll, []string{
			"c2 is down, of 2 cache nodes. Those that are up serve all keys. Start it again.",
			"c1 reaches no database node: only cached values are served.",
		}},
		"a removed node runs on": {three, []outsider{{"http://d:1", "n4", up}}, LevelWarning, threeAll,
			[]string{"n4 runs at http://d:1 and is not a member: it was removed, or belongs to another cluster. Stop it, or give the admin other --nodes."}},
		"a seed that is gone": {three, []outsider{{"http://d:1", "http://d:1", down}}, LevelOK, threeAll, []string{well}},
		"versions": {caches(led(with(voter("n1", up), api.Stats{Version: "v1"}), with(voter("n2", up), api.Stats{Version: "v1"}), with(voter("n3", up), api.Stats{Version: "v2"})),
			Cache{Name: "c1", Condition: up, Stats: &api.CacheStats{Version: "v2"}}), nil, LevelOK, threeAll,
			[]string{"All is well: 3 database nodes led by n1, of which one may fail, and 1 cache node.", "Different versions run: v1 at n1 and n2; v2 at n3 and c1. This is fine only during an upgrade."}},
	} {
		h := healthOf(&tt.state, tt.outsiders)
		sentences := []string{h.Sentence}
		for _, p := range h.Problems {
			if p != h.Sentence {
				sentences = append(sentences, p)
			}
		}
		if h.Level != tt.level || h.Voters != tt.voters || !slices.Equal(sentences, tt.sentences) {
			t.Errorf("%s: level %s, voters %q\n%q\nwant %s, %q\n%q", name, h.Level, h.Voters, sentences, tt.level, tt.voters, tt.sentences)
		}
	}
}
