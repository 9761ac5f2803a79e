package raftnode

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A new cluster begins a new history, even if its founders have the names and URLs of
// another one: each brings a random number. What a founder brings is in its identity before
// it tells anybody, so all founders derive the same ID whenever they ask.

// historyID names a history of the state machine. kvstore has a type of its own for it. The
// ID of the cluster is its first half.
type historyID [16]byte

// String returns 32 hex digits.
func (id historyID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id historyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *historyID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("%.40q has %d characters, want %d hex digits", b, len(b), 2*len(id))
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return fmt.Errorf("%q is not a hex number: %w", b, err)
	}
	return nil
}

// cluster is the ID of the cluster that has the history; never zero for what historyOf
// and newHistory return.
func (id historyID) cluster() ID { return ID(binary.BigEndian.Uint64(id[:8])) }

// newHistory returns a random id.
func newHistory() (id historyID) {
	rand.Read(id[:]) // never fails; see crypto/rand
	return id.named()
}

// named makes an id one that names something: neither it nor its cluster is zero.
func (id historyID) named() historyID {
	id[7] |= 1
	return id
}

// nonce is a random number, of the form that IDs of histories have.
type nonce = historyID

// birth is what a node brings to a cluster that it helps to found. It stands in the
// identity from the first moment, and never changes.
type birth struct {
	Nonce    nonce  `json:"nonce"`
	Level    uint64 `json:"level"`             // the highest that its program knew
	Restored origin `json:"restored,omitzero"` // where its state comes from, if it was not empty
}

// origin is where a state comes from: a position in another history, in the form in
// which the identity and introductions have it.
type origin struct {
	History  historyID `json:"history"`
	Revision uint64    `json:"revision"`
	Head     string    `json:"head"` // hex
}

// originOf is what a state machine says of itself.
func originOf(sm StateMachine) origin {
	history, position, head, ok := sm.Origin()
	if !ok {
		return origin{}
	}
	return origin{history, position, hex.EncodeToString(head)}
}

// says is the part of a sentence about a state.
func (r origin) says() string {
	if r == (origin{}) {
		return "empty"
	}
	return fmt.Sprintf("restored from history %v at revision %d (%.16s…)", r.History, r.Revision, r.Head)
}

// headBytesMax is what a digest of the state machine may have.
const headBytesMax = 64

// check refuses what no founder brings.
func (b birth) check() error {
	if b == (birth{}) {
		return errors.New("it does not say what it brings to a new cluster: its version is from before the first release; start it with the version of the others")
	}
	if b.Nonce == (nonce{}) || b.Level == 0 {
		return errors.New("its nonce or its level is missing")
	}
	if b.Restored == (origin{}) {
		return nil
	}
	head, err := hex.DecodeString(b.Restored.Head)
	if b.Restored.History == (historyID{}) || err != nil || len(head) == 0 || len(head) > headBytesMax || hex.EncodeToString(head) != b.Restored.Head {
		return fmt.Errorf("it does not say what it was restored from: history %v, head %.40q", b.Restored.History, b.Restored.Head)
	}
	return nil
}

// founder is a member of a new cluster, and what it brings.
type founder struct {
	Member
	Birth birth `json:"birth"`
}

// membersOf returns the members that founders are.
func membersOf(founders []founder) []Member {
	members := make([]Member, len(founders))
	for i, f := range founders {
		members[i] = f.Member
		members[i].Level = f.Birth.Level
	}
	return members
}

// checkFounders refuses a list that nobody could have formed a cluster of. Each is
// well formed on its own.
func checkFounders(founders []founder) error {
	ids := map[ID]bool{}
	for i, f := range founders {
		if err := cmp.Or(f.wellFormed(), f.Birth.check()); err != nil {
			return fmt.Errorf("the founder %.64q: %w", f.Name, err)
		}
		if i > 0 && f.Name <= founders[i-1].Name || ids[f.ID] {
			return fmt.Errorf("the founder %.64q is not in its place, or is there twice", f.Name)
		}
		ids[f.ID] = true
	}
	return sameState(founders)
}

// sameState refuses founders that do not begin with the same state.
func sameState(founders []founder) error {
	for _, f := range founders {
		if first := founders[0]; f.Birth.Restored != first.Birth.Restored {
			return fmt.Errorf("%w: the state of %s was %s when it was started first, and that of %s was %s. "+
				"Empty the data directories of all founders, restore the same copy into each of them or into none, and start them again", errFounders, first.Name, first.Birth.Restored.says(), f.Name, f.Birth.Restored.says())
		}
	}
	return nil
}

// lowestLevel is what all founders know, and so the level with which their cluster
// begins.
func lowestLevel(founders []founder) uint64 {
	return slices.MinFunc(founders, func(a, b founder) int { return cmp.Compare(a.Birth.Level, b.Birth.Level) }).Birth.Level
}

// historyOf derives the id of the history that founders begin, from what never
// changes of them. The order of the list does not count.
func historyOf(founders []founder) historyID {
	founders = slices.Clone(founders)
	slices.SortFunc(founders, func(a, b founder) int { return strings.Compare(a.Name, b.Name) })
	text := func(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b := binary.AppendUvarint([]byte("oncekv founders"), uint64(len(founders)))
	for _, f := range founders {
		b = text(b, f.Name)
		b = binary.BigEndian.AppendUint64(b, uint64(f.ID))
		b = text(b, f.PeerURL)
		b = append(b, f.Birth.Nonce[:]...)
		b = binary.AppendUvarint(b, f.Birth.Level)
		b = append(b, f.Birth.Restored.History[:]...) // zero: not restored
		b = binary.AppendUvarint(b, f.Birth.Restored.Revision)
		b = text(b, f.Birth.Restored.Head)
	}
	sum := sha256.Sum256(b)
	return historyID(sum[:16]).named()
}
