package cachetier

import (
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// answerOf makes a heartbeat answer from names: caches c…, databases n….
func answerOf(names string) api.HeartbeatAnswer {
	var a api.HeartbeatAnswer
	for _, name := range strings.Fields(names) {
		if name[0] == 'c' {
			a.Caches = append(a.Caches, api.CacheNode{Name: name, URL: "http://" + name, Healthy: true})
		} else {
			a.DBs = append(a.DBs, api.DBNode{Name: name, URL: "http://" + name})
		}
	}
	return a
}

func TestMembership_Heard(t *testing.T) {
	t.Parallel()
	type step struct {
		after  time.Duration
		answer string
		want   string
	}
	for name, steps := range map[string][]step{
		"union of answers":                     {{0, "c2 n1", "c2 | n1 seed"}, {0, "c3 n2", "c2 c3 | n1 n2 seed"}},
		"itself is no peer":                    {{0, "c1 c2", "c2 | seed"}},
		"unreported for 2 s goes":              {{0, "c2 c3 n1", "c2 c3 | n1 seed"}, {time.Second, "c2", "c2 c3 | n1 seed"}, {time.Second, "c2", "c2 c3 | n1 seed"}, {1, "c2", "c2 | seed"}},
		"one reporter is enough":               {{0, "c2", "c2 | seed"}, {time.Second, "", "c2 | seed"}, {time.Second, "c2", "c2 | seed"}, {time.Second, "", "c2 | seed"}},
		"silence keeps the list":               {{0, "c2 n1", "c2 | n1 seed"}, {time.Hour, "", "c2 | n1 seed"}},
		"after silence everybody gets his 2 s": {{0, "c2 c3", "c2 c3 | seed"}, {time.Hour, "c2", "c2 c3 | seed"}, {2 * time.Second, "c2", "c2 c3 | seed"}, {1, "c2", "c2 | seed"}},
		"seeds stay":                           {{0, "seed", " | seed"}, {3 * time.Second, "", " | seed"}, {2 * time.Second, "", " | seed"}, {1, "", " | seed"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMembership("http://c1", []string{"http://seed"})
			now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
			for i, s := range steps {
				now = now.Add(s.after)
				caches, dbs := m.heard(answerOf(s.answer), now)
				got := strings.ReplaceAll(strings.Join(caches, " ")+" | "+strings.Join(dbs, " "), "http://", "")
				if got != s.want {
					t.Errorf("step %d: %q, want %q", i, got, s.want)
				}
			}
		})
	}
}
