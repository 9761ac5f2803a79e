package adminui

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// finding is one thing that people should know.
type finding struct {
	level string // LevelCritical, LevelWarning; LevelOK: worth knowing, and no fault
	text  string
}

func critical(format string, args ...any) finding {
	return finding{LevelCritical, fmt.Sprintf(format, args...)}
}

func warning(format string, args ...any) finding {
	return finding{LevelWarning, fmt.Sprintf(format, args...)}
}

func notice(format string, args ...any) finding {
	return finding{LevelOK, fmt.Sprintf(format, args...)}
}

var severity = map[string]int{LevelCritical: 0, LevelWarning: 1, LevelOK: 2}

// outsider is a node that the admin was told of and that is no member of the
// cluster that it shows.
type outsider struct {
	url, name string
	Condition
}

// healthOf puts a state into words: what works, what does not, and what to do.
func healthOf(s *State, outsiders []outsider) Health {
	if len(s.Members) == 0 {
		return unformed(outsiders)
	}
	v := votersOf(s)
	found := votersHealth(s, v)
	found = append(found, membersHealth(s)...)
	found = append(found, historyHealth(s)...)
	found = append(found, cachesHealth(s)...)
	found = append(found, outsidersHealth(outsiders)...)
	found = append(found, versionsHealth(s)...)
	slices.SortStableFunc(found, func(a, b finding) int { return severity[a.level] - severity[b.level] })
	h := Health{Level: LevelOK, Problems: []string{}, Voters: v.sentence()}
	for _, f := range found {
		h.Problems = append(h.Problems, f.text)
	}
	if len(found) == 0 || found[0].level == LevelOK {
		h.Sentence = allWell(s, v)
		return h
	}
	h.Level, h.Sentence = found[0].level, found[0].text
	return h
}

// unformed is the health of a cluster of which no member is known.
func unformed(outsiders []outsider) Health {
	h := Health{Level: LevelUnknown, Sentence: "No database node has answered yet.", Problems: []string{}}
	var waiting []string
	for _, o := range outsiders {
		if o.Status != StatusDown {
			waiting = append(waiting, o.name)
			continue
		}
		h.Problems = append(h.Problems, fmt.Sprintf("%s: %s.", o.url, o.Reason))
	}
	if len(waiting) == 0 {
		h.Problems = append(h.Problems, "Start a database node, or give the admin the URL of a running one with --nodes. The admin keeps asking.")
		return h
	}
	h.Level = LevelWarning
	h.Sentence = fmt.Sprintf("There is no cluster yet: %s %s for the other nodes.", list(waiting), verb(waiting, "waits", "wait"))
	h.Problems = append([]string{h.Sentence}, h.Problems...)
	h.Problems = append(h.Problems, "Start every node of the initial cluster. The log of a waiting node names the missing ones.")
	return h
}

func allWell(s *State, v voters) string {
	text := fmt.Sprintf("All is well: %s led by %s", count(len(s.Members), "database node"), s.Leader)
	switch v.spare() {
	case 0:
	case 1:
		text += ", of which one may fail"
	default:
		text += fmt.Sprintf(", of which %d may fail", v.spare())
	}
	caches := 0
	for _, c := range s.Caches {
		if c.Status != StatusDown {
			caches++
		}
	}
	if caches > 0 {
		text += ", and " + count(caches, "cache node")
	}
	text += "."
	if s.Revision == 0 {
		text += " No key is set yet."
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// list joins names as people do.
func list(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// verb chooses a word by how many names there are.
func verb(names []string, one, many string) string {
	if len(names) == 1 {
		return one
	}
	return many
}

// voters is how the votes stand, as the admin sees it.
type voters struct {
	all  int
	down []string // no answer
	mute []string // they answer, and take no part: no leader, or the cluster does not hear them
}

func votersOf(s *State) voters {
	var v voters
	for _, m := range s.Members {
		if m.Role == api.RoleLearner {
			continue
		}
		v.all++
		switch {
		case m.Status == StatusDown:
			v.down = append(v.down, m.Name)
		case s.Leader != "" && (m.outOfTouch || !m.Healthy):
			v.mute = append(v.mute, m.Name)
		}
	}
	return v
}

func (v voters) quorum() int { return v.all/2 + 1 }

// answering is how many answer the admin, whether or not they take part.
func (v voters) answering() int { return v.all - len(v.down) }

// answer says how many answer: 1 of 3 voters answers.
func (v voters) answer() string {
	text := fmt.Sprintf("%d of %s answer", v.answering(), count(v.all, "voter"))
	if v.answering() == 1 {
		text += "s"
	}
	return text
}

// spare is how many of those that take part may fail; below zero it is how many
// are missing.
func (v voters) spare() int { return v.answering() - len(v.mute) - v.quorum() }

// sentence says how many voters there are, and how many more may fail.
func (v voters) sentence() string {
	text := count(v.all, "voter")
	if working := v.answering() - len(v.mute); working < v.all {
		text += fmt.Sprintf(", of which %d can be counted on", working)
	}
	return text + ": " + v.mayFail() + "."
}

func (v voters) mayFail() string {
	switch n := v.spare(); {
	case n < 0:
		return fmt.Sprintf("%d are needed", v.quorum())
	case n == 0 && v.all == 1:
		return "it may not fail"
	case n == 0:
		return "none of them may fail"
	case n == 1:
		return "one of them may fail"
	default:
		return fmt.Sprintf("%d of them may fail", n)
	}
}

// votersHealth is about whether the cluster can decide, now and after the next
// loss.
func votersHealth(s *State, v voters) []finding {
	switch {
	case v.answering() == 0:
		return []finding{critical("No database node with a vote answers: all are down, or the admin cannot reach them. Nothing can be put%s. The admin keeps asking.", stillFound(s))}
	case v.answering() < v.quorum() && s.Leader != "": // the cluster sees more of itself, or does not know yet
		return []finding{warning("Only %s the admin, although %s leads: the others have just gone down, or the admin cannot reach them.", v.answer(), s.Leader)}
	case v.answering() < v.quorum():
		return []finding{critical("No quorum: %s, and %d are needed. Puts wait, and it cannot be confirmed that a key is not set; values that are set can still be read. Start %s again.",
			v.answer(), v.quorum(), list(v.down))}
	case s.Leader == "":
		return []finding{critical("No leader: puts wait until the voters have elected one. That takes seconds if they reach one another at their peer URLs.")}
	}
	return append(v.losses(), v.number()...)
}

// stillFound ends the sentence about a cluster none of whose voters answers.
func stillFound(s *State) string {
	switch {
	case answersAny(s.Members, func(m Member) Condition { return m.Condition }): // a learner
		return "; values that are set can still be read"
	case answersAny(s.Caches, func(c Cache) Condition { return c.Condition }):
		return ", and only cached values can be read"
	}
	return " or read"
}

func answersAny[N any](nodes []N, condition func(N) Condition) bool {
	return slices.ContainsFunc(nodes, func(n N) bool { return condition(n).Status != StatusDown })
}

// losses is about voters that are missing while there is a quorum.
func (v voters) losses() []finding {
	var found []finding
	more := "the loss of one more would stop puts"
	if v.spare() > 0 {
		more = v.mayFail()
	}
	if len(v.down) > 0 {
		found = append(found, warning("%s %s down, of %s. Everything works; %s. Start %s again, or replace %s.",
			list(v.down), verb(v.down, "is", "are"), count(v.all, "voter"), more, verb(v.down, "it", "them"), verb(v.down, "it", "them")))
	}
	if len(v.mute) > 0 {
		found = append(found, warning("%s %s the admin, but the other nodes do not hear %s; %s.", list(v.mute), verb(v.mute, "answers", "answer"), verb(v.mute, "it", "them"), more))
	}
	return found
}

// number is about how many voters there are, when all of them are up.
func (v voters) number() []finding {
	switch {
	case len(v.down)+len(v.mute) > 0:
		return nil
	case v.all == 1:
		return []finding{notice("There is only one voter, so there is no copy of its data. Of three, one may fail.")}
	case v.all == 2:
		return []finding{warning("There are only 2 voters: everything works, but the loss of one would stop puts. Add a third.")}
	case v.all%2 == 0:
		return []finding{notice("Of %d voters no more may fail than of %d. Add one, or remove one.", v.all, v.all-1)}
	}
	return nil
}

// membersHealth is about single database nodes.
func membersHealth(s *State) []finding {
	var found []finding
	for _, m := range s.Members {
		learner := m.Role == api.RoleLearner
		switch {
		case learner && m.Status == StatusDown && m.Stats == nil:
			found = append(found, warning("Learner %s has not been seen yet. Start it, or remove it.", m.Name))
		case learner && m.Status == StatusDown:
			found = append(found, warning("Learner %s is down: %s.", m.Name, m.Reason))
		case learner && m.Status == StatusStarting:
			found = append(found, notice("Learner %s is %s.", m.Name, m.Reason))
		case m.Status == StatusStarting && m.outOfTouch && s.Leader != "": // said with the voters
		case m.Status == StatusStarting:
			found = append(found, warning("%s is not ready: %s.", m.Name, m.Reason))
		}
		if m.Status != StatusDown && m.Stats != nil && m.Stats.DiskLow {
			found = append(found, diskHealth(m, learner))
		}
	}
	return found
}

func diskHealth(m Member, learner bool) finding {
	if learner {
		return warning("The disk of learner %s is nearly full. Make room there.", m.Name)
	}
	return critical("The disk of %s is below its reserve: all puts are refused until it has room. Reads go on. Make room there.", m.Name)
}

// historyHealth compares what replicas say their history is: at the same
// revision of one history the digest is the same, or a disk has lied.
func historyHealth(s *State) []finding {
	type place struct {
		history  string
		revision uint64
	}
	type witness struct{ name, digest string }
	first := map[place]witness{}
	for _, m := range s.Members {
		if m.Stats == nil || m.Stats.Revision == 0 {
			continue
		}
		digests := append([]api.Checkpoint{{Revision: m.Stats.Revision, Digest: m.Stats.Digest}}, m.Stats.Checkpoints...)
		for _, c := range digests {
			at := place{idOf(m.Stats.History), c.Revision}
			other, known := first[at]
			switch {
			case !known:
				first[at] = witness{m.Name, c.Digest}
			case other.digest != "" && other.digest != c.Digest:
				return []finding{critical("The histories of %s and %s differ at revision %d: one of their disks has returned wrong data. The log of the node at fault says more. Replace that node.", other.name, m.Name, c.Revision)}
			}
		}
	}
	return nil
}

// idOf is the id of a history, "" if there is none.
func idOf(h *api.History) string {
	if h == nil {
		return ""
	}
	return h.ID
}

// cachesHealth is about the cache nodes together. It names none that has never
// answered: anybody can send heartbeats of nodes that are not.
func cachesHealth(s *State) []finding {
	var down, waiting, elsewhere []string
	left, unheard := 0, 0
	for _, c := range s.Caches {
		switch {
		case c.Status == StatusDown && c.Left:
			left++
		case c.Status == StatusDown && c.Stats == nil:
			unheard++
		case c.Status == StatusDown:
			down = append(down, c.Name)
		case c.Stats != nil && c.Stats.History != nil && s.History != nil && c.Stats.History.ID != s.History.ID:
			elsewhere = append(elsewhere, c.Name)
		case c.Status == StatusStarting:
			waiting = append(waiting, c.Name)
		}
	}
	var found []finding
	known := len(s.Caches) - left - unheard
	switch serving := known - len(down); {
	case len(down) > 0 && serving == 0 && !answersAny(s.Members, func(m Member) Condition { return m.Condition }):
		found = append(found, warning("No cache node answers. Start %s again.", list(down)))
	case len(down) > 0 && serving == 0:
		found = append(found, warning("No cache node answers: read from the database nodes meanwhile. Start %s again.", list(down)))
	case len(down) > 0:
		found = append(found, warning("%s %s down, of %s. Those that are up serve all keys. Start %s again.", list(down), verb(down, "is", "are"), count(known, "cache node"), verb(down, "it", "them")))
	case left > 0 && serving == 0 && unheard == 0:
		found = append(found, notice("All cache nodes were stopped: read from the database nodes."))
	}
	switch {
	case unheard == 1:
		found = append(found, warning("1 cache node has never answered the admin: it is starting, or the admin cannot reach it, or it does not exist."))
	case unheard > 1:
		found = append(found, warning("%d cache nodes have never answered the admin: they are starting, or it cannot reach them, or they do not exist.", unheard))
	}
	if len(elsewhere) > 0 {
		found = append(found, warning("%s %s another history than the database nodes, and %s what was set there. If that lasts for more than a minute, restart %s.",
			list(elsewhere), verb(elsewhere, "has", "have"), verb(elsewhere, "serves", "serve"), verb(elsewhere, "it", "them")))
	}
	if len(waiting) > 0 {
		found = append(found, warning("%s %s no database node: only cached values are served.", list(waiting), verb(waiting, "reaches", "reach")))
	}
	return found
}

// outsidersHealth is about nodes that answer, and are no members.
func outsidersHealth(outsiders []outsider) []finding {
	var found []finding
	for _, o := range outsiders {
		if o.Status != StatusDown {
			found = append(found, warning("%s runs at %s and is not a member: it was removed, or belongs to another cluster. Stop it, or give the admin other --nodes.", o.name, o.url))
		}
	}
	return found
}

// versionsHealth is about programs of different versions.
func versionsHealth(s *State) []finding {
	by := map[string][]string{}
	for _, m := range s.Members {
		if m.Status != StatusDown && m.Stats != nil {
			by[m.Stats.Version] = append(by[m.Stats.Version], m.Name)
		}
	}
	for _, c := range s.Caches {
		if c.Status != StatusDown && c.Stats != nil {
			by[c.Stats.Version] = append(by[c.Stats.Version], c.Name)
		}
	}
	if len(by) < 2 {
		return nil
	}
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(by)) {
		parts = append(parts, fmt.Sprintf("%s at %s", version, list(by[version])))
	}
	return []finding{notice("Different versions run: %s. This is fine only during an upgrade.", strings.Join(parts, "; "))}
}
