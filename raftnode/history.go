package raftnode

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// Members with the same log have the same history, unless a disk or memory has lied. Each
// states the digest of its history up to any position. Where two differ, most voters decide
// who is wrong. No member stops because of what a single other one says, and every member
// believes only what it has asked for itself, at the addresses in its own member table.

// historyAnswer is what a member says of its history.
type historyAnswer struct {
	ID       ID     `json:"id"`
	Position uint64 `json:"position"` // that was asked for, or where its history ends if that is before
	Digest   string `json:"digest"`   // hex
}

const (
	historyBytesMax = 1 << 12
	historyTime     = 10 * time.Second // a digest may take a thousand records
)

// serveHistory states the digest of this node's history.
func (n *Node) serveHistory(w http.ResponseWriter, r *http.Request) {
	position, err := strconv.ParseUint(r.URL.Query().Get("position"), 10, 64)
	if err != nil {
		http.Error(w, "position is not a number", http.StatusBadRequest)
		return
	}
	position = min(position, n.sm.Position())
	digest, err := n.digest.of(n.sm, position)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	writeJSON(w, http.StatusOK, historyAnswer{ID: n.identity.Load().ID, Position: position, Digest: hex.EncodeToString(digest)})
}

// askHistory asks a member for the digest of its history up to a position.
func (n *Node) askHistory(ctx context.Context, m Member, position uint64) (a historyAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, historyTime)
	defer cancel()
	cluster := n.identity.Load().ClusterID
	resp, err := ask(ctx, n.client, cluster, http.MethodGet, fmt.Sprintf("%s%s?position=%d", m.PeerURL, historyPath, position), nil)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !answeredBy(resp, cluster) {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return a, fmt.Errorf("%s answered %s: %.200q", m.PeerURL, resp.Status, text)
	}
	if err := nodehttp.DecodeJSON(resp.Body, historyBytesMax, &a); err != nil {
		return a, err
	}
	if raw, err := hex.DecodeString(a.Digest); err != nil || len(raw) == 0 || a.Position > position {
		return a, nodehttp.ErrAnswer
	}
	if a.ID != m.ID {
		return a, fmt.Errorf("another node is at %s", m.PeerURL)
	}
	return a, nil
}

// A DisputeError says that members have different histories, and who is wrong if
// that is another member than this one, or that nobody can tell.
type DisputeError struct {
	Position uint64
	Wrong    []string // members whose history differs from that of most voters; none if nobody can tell
	reason   string
}

// Error says what differs, and what to do.
func (e *DisputeError) Error() string { return e.reason }

// JudgeHistory compares this node's history up to a position with that of all other
// members. It returns nil if nobody who answers has another one, ErrDiverged if most voters
// contradict this node (it must stop), and else a *DisputeError: another member is wrong,
// or no majority has the same.
func (n *Node) JudgeHistory(ctx context.Context, position uint64) error {
	return n.judge(ctx, n.status.Load().Members, position)
}

func (n *Node) judge(ctx context.Context, members []Member, position uint64) error {
	h, err := n.poll(ctx, members, position)
	if err != nil {
		return err
	}
	if most, _ := h.majority(); most == "" && h.differs() && h.lowest < position {
		// A voter that is behind may know who is wrong, if they differ that early.
		lower, err := n.poll(ctx, members, h.lowest)
		if err != nil {
			return err
		}
		if lower.differs() {
			h = lower
		}
	}
	return h.verdict(n.self.ID)
}

// histories are what members say of their history up to one position.
type histories struct {
	position uint64
	lowest   uint64 // where the shortest history ends that is not empty, or position
	own      string // digest of this node
	members  []Member
	digests  map[ID]string // of those that have an answer, this node included
}

// poll asks all other members at once.
func (n *Node) poll(ctx context.Context, members []Member, position uint64) (*histories, error) {
	digest, err := n.digest.of(n.sm, position)
	if err != nil {
		return nil, err
	}
	h := &histories{position: position, lowest: position, own: hex.EncodeToString(digest), members: members, digests: map[ID]string{}}
	h.digests[n.self.ID] = h.own
	answers := atOnce(n.others(members), func(m Member) historyAnswer {
		a, err := n.askHistory(ctx, m, position)
		if err != nil {
			return historyAnswer{}
		}
		return a
	})
	for _, a := range answers {
		switch {
		case a.Position == position && a.ID != 0:
			h.digests[a.ID] = a.Digest
		case a.Position > 0:
			h.lowest = min(h.lowest, a.Position)
		}
	}
	return h, ctx.Err()
}

// differs reports whether anybody has another history than this node.
func (h *histories) differs() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(h.digests)), func(d string) bool { return d != h.own })
}

// majority returns the digest that most voters have, and their names; "" if there
// is none.
func (h *histories) majority() (digest string, names []string) {
	voters := 0
	by := map[string][]string{}
	for _, m := range h.members {
		if m.Learner {
			continue
		}
		voters++
		if d, ok := h.digests[m.ID]; ok {
			by[d] = append(by[d], m.Name)
		}
	}
	for d, names := range by {
		if len(names) > voters/2 {
			return d, names
		}
	}
	return "", nil
}

// verdict says who is wrong. One other voter, even if it is a majority, is not enough to
// stop this node.
func (h *histories) verdict(self ID) error {
	if !h.differs() {
		return nil
	}
	most, names := h.majority()
	switch {
	case most == "" || most != h.own && len(names) < 2:
		var said []string
		for _, m := range h.members {
			if d, ok := h.digests[m.ID]; ok {
				said = append(said, fmt.Sprintf("%s has %.16s…", m.Name, d))
			} else if !m.Learner {
				said = append(said, m.Name+" does not answer, or is behind")
			}
		}
		return &DisputeError{Position: h.position, reason: fmt.Sprintf("members have different histories up to position %d, and it is not known which of them are wrong: %s. "+
			"All of them continue. If voters do not answer, start them. Otherwise decide which history is right, and replace the other members", h.position, strings.Join(said, ", "))}
	case most == h.own:
		wrong := h.without(most)
		return &DisputeError{Position: h.position, Wrong: wrong, reason: fmt.Sprintf("%s has another history than most voters (%s) up to position %d: do not read from it, and replace it: remove it, empty its data directory, start it with --join", strings.Join(wrong, ", "), strings.Join(names, ", "), h.position)}
	}
	name := self.String()
	if i := slices.IndexFunc(h.members, func(m Member) bool { return m.ID == self }); i >= 0 {
		name = h.members[i].Name
	}
	return fmt.Errorf("%w: %s has %.16s… up to position %d, and %s have %.16s…. Replace %s: remove it from the cluster, empty its data directory, start it with --join",
		ErrDiverged, name, h.own, h.position, strings.Join(names, ", "), most, name)
}

// without names the members that have another digest.
func (h *histories) without(digest string) (names []string) {
	for _, m := range h.members {
		if d, ok := h.digests[m.ID]; ok && d != digest {
			names = append(names, m.Name)
		}
	}
	return names
}

// checkSource compares this node's history with that of a member to pull from, as far as
// both go.
func (n *Node) checkSource(ctx context.Context, members []Member, source Member) error {
	position := n.sm.Position()
	if position == 0 {
		return nil
	}
	a, err := n.askHistory(ctx, source, position)
	if err != nil {
		return fmt.Errorf("compare histories: %w", err)
	}
	own, err := n.digest.of(n.sm, a.Position)
	if err != nil {
		return err
	}
	if theirs, _ := hex.DecodeString(a.Digest); bytes.Equal(own, theirs) {
		return nil
	}
	if err := n.judge(ctx, members, a.Position); err != nil {
		return err
	}
	// It did not answer twice, or is no member that is known here.
	return fmt.Errorf("%s has another history than this node up to position %d", source.Name, a.Position)
}
