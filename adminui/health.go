package adminui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/client"
)

// finding is one problem.
type finding struct {
	critical bool
	text     string
}

// healthOf puts a state into words.
func healthOf(s *State, seeds []string) Health {
	if len(s.Members) == 0 {
		return Health{Level: LevelUnknown, Sentence: "No database node has answered yet.", Problems: []string{
			"Asked " + strings.Join(seeds, ", ") + ": start a database node, or give --nodes the URL of one that runs.",
		}}
	}
	var found []finding
	found = append(found, votersHealth(s)...)
	found = append(found, membersHealth(s)...)
	found = append(found, cachesHealth(s)...)
	slices.SortStableFunc(found, func(a, b finding) int {
		switch {
		case a.critical == b.critical:
			return 0
		case a.critical:
			return -1
		}
		return 1
	})
	h := Health{Level: LevelOK, Problems: []string{}}
	for _, f := range found {
		h.Problems = append(h.Problems, f.text)
	}
	switch {
	case len(found) == 0:
		h.Sentence = allWell(s)
	case found[0].critical:
		h.Level, h.Sentence = LevelCritical, found[0].text
	default:
		h.Level, h.Sentence = LevelWarning, found[0].text
	}
	return h
}

func allWell(s *State) string {
	text := fmt.Sprintf("All is well: %s led by %s", count(len(s.Members), "database node"), s.Leader)
	caches := 0
	for _, c := range s.Caches {
		if c.Status != StatusDown {
			caches++
		}
	}
	if caches > 0 {
		text += ", " + count(caches, "cache node")
	}
	return text + "."
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// votersHealth is about whether the cluster can decide.
func votersHealth(s *State) []finding {
	voters, up := 0, 0
	var down []string
	for _, m := range s.Members {
		if m.Role == client.RoleLearner {
			continue
		}
		voters++
		if m.Status == StatusDown {
			down = append(down, m.Name)
		} else {
			up++
		}
	}
	quorum := voters/2 + 1
	switch {
	case up == 0:
		return []finding{{true, "No voter answers: nothing can be put, and values are found only where they are cached."}}
	case up < quorum && s.Leader != "": // the cluster sees more of itself, or does not know yet
		return []finding{{false, fmt.Sprintf("Only %d of %s answer here, although %s leads: the others have just died, or the admin cannot reach them.",
			up, count(voters, "voter"), s.Leader)}}
	case up < quorum:
		return []finding{{true, fmt.Sprintf("No quorum: %d of %s answer and %d are needed. Puts wait and absence cannot be confirmed; found values are still served.",
			up, count(voters, "voter"), quorum)}}
	case s.Leader == "":
		return []finding{{true, "No leader: puts wait until the voters have elected one."}}
	case len(down) > 0 && up-quorum == 0:
		return []finding{{false, fmt.Sprintf("%s of the voters: everything works, but the loss of one more would stop puts.", are(down))}}
	case len(down) > 0:
		return []finding{{false, fmt.Sprintf("%s of the voters: everything works, and %d more may fail.", are(down), up-quorum)}}
	}
	return nil
}

// are says of names that these nodes are down.
func are(names []string) string {
	list := strings.Join(names, ", ")
	if len(names) == 1 {
		return list + " is down, one"
	}
	return list + fmt.Sprintf(" are down, %d", len(names))
}

// membersHealth is about single database nodes.
func membersHealth(s *State) []finding {
	var found []finding
	for _, m := range s.Members {
		switch {
		case m.Status == StatusDown && m.Role == client.RoleLearner:
			found = append(found, finding{false, fmt.Sprintf("Learner %s is down: %s.", m.Name, m.Reason)})
		case m.Status == StatusStarting:
			found = append(found, finding{false, fmt.Sprintf("%s is not ready: %s.", m.Name, m.Reason)})
		}
		if m.Status != StatusDown && m.Stats != nil && m.Stats.DiskLow && m.Role != client.RoleLearner {
			found = append(found, finding{true, fmt.Sprintf("The disk of %s is below its reserve: all puts are refused until it has room. Reads go on.", m.Name)})
		}
	}
	return append(found, historyHealth(s)...)
}

// historyHealth compares what replicas say their history is: at the same
// revision the digest is the same, or a disk has lied.
func historyHealth(s *State) []finding {
	first := map[uint64]Member{}
	for _, m := range s.Members {
		if m.Stats == nil || m.Stats.Revision == 0 {
			continue
		}
		digests := append([]client.Checkpoint{{Revision: m.Stats.Revision, Digest: m.Stats.Digest}}, m.Stats.Checkpoints...)
		for _, c := range digests {
			other, known := first[c.Revision]
			if !known {
				first[c.Revision] = m
				continue
			}
			if d := digestAt(other, c.Revision); d != "" && d != c.Digest {
				return []finding{{true, fmt.Sprintf("The histories of %s and %s differ at revision %d: one of their disks has lied. The log of the one at fault says more.", other.Name, m.Name, c.Revision)}}
			}
		}
	}
	return nil
}

func digestAt(m Member, revision uint64) string {
	if m.Stats.Revision == revision {
		return m.Stats.Digest
	}
	for _, c := range m.Stats.Checkpoints {
		if c.Revision == revision {
			return c.Digest
		}
	}
	return ""
}

// cachesHealth is about the cache nodes together.
func cachesHealth(s *State) []finding {
	var down, waiting []string
	left := 0
	for _, c := range s.Caches {
		switch c.Status {
		case StatusDown:
			if c.Left {
				left++
			} else {
				down = append(down, c.Name)
			}
		case StatusStarting:
			waiting = append(waiting, c.Name)
		}
	}
	var found []finding
	if len(down) > 0 {
		found = append(found, finding{false, fmt.Sprintf("%s of the cache nodes: the others own its keys now.", are(down))})
		if len(down) > 1 {
			found[0].text = fmt.Sprintf("%s of the cache nodes: the others own their keys now.", are(down))
		}
		if len(down)+left == len(s.Caches) {
			found[0].text = "No cache node answers: reads are for the database nodes meanwhile."
		}
	}
	if len(waiting) > 0 {
		found = append(found, finding{false, strings.Join(waiting, ", ") + ": no database node answers there; what is cached is still served."})
	}
	return found
}
