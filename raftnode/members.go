package raftnode

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// ID is a member's raft ID: random, never zero, never used twice.
type ID uint64

// String returns the ID as 16 hex digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// MarshalText and UnmarshalText make IDs hex strings in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	*id = v
	return err
}

// ParseID reads a hex ID. It returns ErrBadMember for anything else.
func ParseID(s string) (ID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("%w: id %q must be 1 to 16 hex digits and not zero", ErrBadMember, s)
	}
	return ID(v), nil
}

// Member is one database node as the cluster knows it.
type Member struct {
	ID        ID     `json:"id"`
	Name      string `json:"name"`
	PeerURL   string `json:"peer_url"`
	ClientURL string `json:"client_url"`
	// Learner is true while the member has no vote.
	Learner bool `json:"learner,omitempty"`
	// Promote asks the leader to make the learner a voter once it has caught
	// up.
	Promote bool `json:"promote,omitempty"`
	// Level is the highest level that the member's program knows, 0 for 1. It is told when
	// the member is added, and not kept, because programs change.
	Level uint64 `json:"level,omitempty"`
}

// knows is the highest level that the member's program knows, as it was told.
func (m Member) knows() uint64 { return max(1, m.Level) }

// Checked returns the member with its URLs in the one form that is compared, or
// ErrBadMember with a sentence about the field that cannot be used. It is for what comes
// in: a configuration, a request, what another node says of itself.
func (m Member) Checked() (Member, error) {
	if err := nodeurl.CheckName(m.Name); err != nil {
		return m, fmt.Errorf("%w: name %w", ErrBadMember, err)
	}
	var err error
	if m.PeerURL, err = nodeurl.WithPort(m.PeerURL); err != nil {
		return m, fmt.Errorf("%w: peer_url %w", ErrBadMember, err)
	}
	if m.ClientURL, err = nodeurl.WithPort(m.ClientURL); err != nil {
		return m, fmt.Errorf("%w: client_url %w", ErrBadMember, err)
	}
	return m, m.wellFormed()
}

const nameBytesMax = 64

// wellFormed is the rule by which replicas accept a member in the log. It must be the same in
// all versions: stricter rules belong in Checked, before a change is proposed.
func (m Member) wellFormed() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadMember, fmt.Sprintf(format, args...))
	}
	if m.ID == 0 {
		return bad("the id is missing")
	}
	if m.Name == "" || len(m.Name) > nameBytesMax {
		return bad("a name has 1 to %d bytes", nameBytesMax)
	}
	if strings.ContainsFunc(m.Name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	}) {
		return bad("name %q may hold letters, digits, '-', '_' and '.' only", m.Name)
	}
	if err := checkForm(m.PeerURL); err != nil {
		return bad("peer_url %q: %v", m.PeerURL, err)
	}
	if err := checkForm(m.ClientURL); err != nil {
		return bad("client_url %q: %v", m.ClientURL, err)
	}
	return nil
}

// checkForm accepts what rafthttp accepts, http://host:port: its constructor panics on the
// rest.
func checkForm(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if u.Scheme != "http" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("must look like http://host:port")
	}
	return nil
}

// changeOp is what a membership change does.
type changeOp string

const (
	opAdd     changeOp = "add"     // as a learner
	opUpdate  changeOp = "update"  // of the URLs
	opPromote changeOp = "promote" // a learner to a voter
	opRemove  changeOp = "remove"
	opForce   changeOp = "force" // of a new cluster, see Forcing
	opRaise   changeOp = "raise" // of the store's level, by the leader alone
)

// change is the context of a conf change entry. Seq and Origin name the
// waiting call, as in a command.
type change struct {
	Origin uint64   `json:"origin"`
	Seq    uint64   `json:"seq"`
	Op     changeOp `json:"op"`
	Member Member   `json:"member"`
	// Forcing is there for opForce only. Member is then the one that stays.
	Forcing *Forcing `json:"forcing,omitempty"`
	// Level is there for opRaise only. Member is then the leader.
	Level uint64 `json:"level,omitempty"`
	// Number is the number of this change of the table. A late copy has an old number and
	// is refused. Only a forcing has none.
	Number uint64 `json:"number,omitempty"`
}

// errUnknownOp: a later version of the program wrote it, or nobody.
var errUnknownOp = fmt.Errorf("%w: an operation that this program does not know", ErrBadMember)

// confChange is the entry that carries c.
func (c change) confChange() (raftpb.ConfChange, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return raftpb.ConfChange{}, fmt.Errorf("encode membership change: %w", err)
	}
	cc := raftpb.ConfChange{NodeID: uint64(c.Member.ID), Context: data}
	if c.Op == "" {
		return cc, fmt.Errorf("%w: no operation", ErrBadMember)
	}
	var known bool
	if cc.Type, known = changeTypes[c.Op]; !known {
		return cc, fmt.Errorf("%w: %.64q", errUnknownOp, c.Op)
	}
	return cc, nil
}

// changeTypes are how raft knows the operations. It carries out the parts of a forcing,
// see applyConf.
var changeTypes = map[changeOp]raftpb.ConfChangeType{
	opAdd: raftpb.ConfChangeAddLearnerNode, opPromote: raftpb.ConfChangeAddNode, opRemove: raftpb.ConfChangeRemoveNode,
	opUpdate: raftpb.ConfChangeUpdateNode, opForce: raftpb.ConfChangeUpdateNode, opRaise: raftpb.ConfChangeUpdateNode,
}

// decodeChange reads a conf change entry. The type must be the one its
// operation has: raft acts on the type, we on the operation.
func decodeChange(data []byte) (change, raftpb.ConfChange, error) {
	var cc raftpb.ConfChange
	if err := cc.Unmarshal(data); err != nil {
		return change{}, cc, fmt.Errorf("decode conf change: %w", err)
	}
	var c change
	if err := json.Unmarshal(cc.Context, &c); err != nil {
		return change{}, cc, fmt.Errorf("decode membership change: %w", err)
	}
	want, err := c.confChange()
	if err == nil && (want.Type != cc.Type || want.NodeID != cc.NodeID) {
		err = fmt.Errorf("%w: conf change %v of %x does not match operation %q of %v", ErrBadMember, cc.Type, cc.NodeID, c.Op, c.Member.ID)
	}
	return c, cc, err
}

// meta is what the state machine stores for this package next to the applied
// index: who belongs to the cluster at that index.
type meta struct {
	ClusterID ID        `json:"cluster_id"`
	Conf      confState `json:"conf"`
	Members   []Member  `json:"members"`           // by ID
	Removed   []ID      `json:"removed,omitempty"` // ascending
	Forced    []Forcing `json:"forced,omitempty"`  // oldest first
	Changed   uint64    `json:"changed,omitempty"` // number of the last change that had one
	Level     uint64    `json:"level"`             // of the store
}

// confState is raft's ConfState without the joint fields: changes here are
// always simple.
type confState struct {
	Voters   []uint64 `json:"voters"`
	Learners []uint64 `json:"learners,omitempty"`
}

func (c confState) raft() raftpb.ConfState {
	return raftpb.ConfState{Voters: slices.Clone(c.Voters), Learners: slices.Clone(c.Learners)}
}

// table is the member table, the replicated state that this package owns. The core changes
// it in log order; readers get copies.
type table struct {
	cluster ID
	conf    raftpb.ConfState
	members map[ID]Member
	removed map[ID]bool
	forced  []Forcing // how cluster came to be, oldest first; only ever appended to
	changed uint64    // number of the last change that had one
	level   uint64    // of the store: it never falls
}

// newTable is that of a member that knows nothing yet.
func newTable(cluster ID) *table {
	return &table{cluster: cluster, members: map[ID]Member{}, removed: map[ID]bool{}, level: 1}
}

// foundersTable is the table of a new cluster: all vote, and the store has the lowest level that
// any of them knows.
func foundersTable(cluster ID, members []Member) *table {
	t := newTable(cluster)
	for i, m := range members {
		if i == 0 || m.knows() < t.level {
			t.level = m.knows()
		}
		m.Level = 0
		t.members[m.ID] = m
		t.conf.Voters = append(t.conf.Voters, uint64(m.ID))
	}
	slices.Sort(t.conf.Voters)
	return t
}

func (t *table) encode() ([]byte, error) {
	m := meta{ClusterID: t.cluster, Conf: confState{t.conf.Voters, t.conf.Learners}, Members: t.list(), Removed: slices.Sorted(maps.Keys(t.removed)), Forced: t.forced, Changed: t.changed, Level: t.level}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode member table: %w", err)
	}
	return b, nil
}

func decodeTable(b []byte) (*table, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("decode member table: %w", err)
	}
	t := newTable(m.ClusterID)
	t.conf, t.forced, t.changed, t.level = m.Conf.raft(), m.Forced, m.Changed, m.Level
	for _, x := range m.Members {
		t.members[x.ID] = x
	}
	for _, id := range m.Removed {
		t.removed[id] = true
	}
	if _, nobody := t.members[0]; nobody || t.removed[0] || t.cluster == 0 {
		return nil, errors.New("decode member table: the cluster or a member in it has no id")
	}
	if t.level == 0 {
		return nil, errors.New("decode member table: the store has no level")
	}
	return t, nil
}

// list returns the members ordered by ID.
func (t *table) list() []Member {
	return slices.SortedFunc(maps.Values(t.members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
}

func (t *table) byName(name string) (Member, bool) {
	for _, m := range t.members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// voters counts the members that vote.
func (t *table) voters() int { return len(t.conf.Voters) }

// errChanged: a copy of a change was late, or another change was first.
var errChanged = refuse("the members changed while this change was on its way; look at them, and try again")

// check tells whether a change is legal on this table. raft itself panics, on every replay,
// when the last voter is removed, takes the vote of a voter that is added as a learner, and
// brings a removed ID back by a late promotion. check depends on the table alone, so that
// all replicas decide alike.
func (t *table) check(c change) error {
	if c.Number != t.changed+1 && (c.Number != 0 || c.Op != opForce) {
		return errChanged
	}
	m := c.Member
	old, known := t.members[m.ID]
	switch c.Op {
	case opAdd, opUpdate:
		if err := m.wellFormed(); err != nil {
			return err
		}
	case opPromote, opRemove, opForce, opRaise:
		if !known {
			return fmt.Errorf("%w: id %v", ErrUnknownMember, m.ID)
		}
	}
	switch c.Op {
	case opAdd:
		if t.removed[m.ID] {
			return refuse("id %v belonged to a member that was removed; ids are never used again: start %s with an empty data directory", m.ID, m.Name)
		}
		if known {
			return refuse("%s is a member already", old.Name)
		}
		if m.knows() < t.level {
			return refuse("the store has level %d, and the program of %s knows up to level %d: start %s with a later version of oncekv", t.level, m.Name, m.knows(), m.Name)
		}
		if x, taken := t.byName(m.Name); taken {
			return refuse("the name %s belongs to the member with id %v; if that one is lost, remove it first: DELETE /members/%s", m.Name, x.ID, m.Name)
		}
		return t.checkPeerURL(m)
	case opUpdate:
		if !known || old.Name != m.Name {
			return fmt.Errorf("%w: %s with id %v", ErrUnknownMember, m.Name, m.ID)
		}
		return t.checkPeerURL(m)
	case opPromote:
		if !old.Learner {
			return refuse("%s votes already", old.Name)
		}
	case opRemove:
		if !old.Learner && t.voters() == 1 {
			return refuse("%s is the only voter; the cluster cannot be left without one", old.Name)
		}
	case opForce:
		if c.Forcing == nil || c.Forcing.Cluster == 0 || c.Forcing.Cluster != c.Forcing.History.cluster() || c.Forcing.Parent != t.cluster {
			return fmt.Errorf("%w: it forces no cluster out of %v", ErrBadMember, t.cluster)
		}
	case opRaise:
		if c.Level <= t.level {
			return refuse("the store has level %d already", t.level)
		}
	default:
		return fmt.Errorf("%w: no operation %q", ErrBadMember, c.Op)
	}
	return nil
}

// checkPeerURL refuses a member where another one is reached.
func (t *table) checkPeerURL(m Member) error {
	for _, x := range t.members {
		if x.ID != m.ID && x.PeerURL == m.PeerURL {
			return refuse("peer_url %s belongs to %s", m.PeerURL, x.Name)
		}
	}
	return nil
}

// shows reports whether the table is as a change wants it.
func (t *table) shows(c change) bool {
	m, known := t.members[c.Member.ID]
	switch c.Op {
	case opAdd, opUpdate:
		return known && m.Name == c.Member.Name && m.PeerURL == c.Member.PeerURL && m.ClientURL == c.Member.ClientURL
	case opPromote:
		return known && !m.Learner
	case opRemove:
		return t.removed[c.Member.ID]
	case opRaise:
		return t.level >= c.Level
	}
	return false
}

// apply carries out a change that check accepted. conf is what raft made of
// it.
func (t *table) apply(c change, conf raftpb.ConfState) {
	t.conf = conf
	t.changed = max(t.changed, c.Number)
	m := t.members[c.Member.ID]
	switch c.Op {
	case opAdd:
		m = c.Member
		m.Learner, m.Level = true, 0
	case opUpdate:
		m.PeerURL, m.ClientURL = c.Member.PeerURL, c.Member.ClientURL
	case opPromote:
		m.Learner, m.Promote = false, false
	case opRemove:
		delete(t.members, m.ID)
		t.removed[m.ID] = true
		return
	case opForce:
		for id := range t.members {
			if id != m.ID {
				delete(t.members, id)
				t.removed[id] = true
			}
		}
		m.Learner, m.Promote = false, false
		t.cluster = c.Forcing.Cluster
		t.forced = append(slices.Clip(t.forced), *c.Forcing)
	case opRaise:
		t.level = c.Level
		return
	}
	t.members[m.ID] = m
}
