package api

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Origin is where a history ended and another one went on from it.
type Origin struct {
	ID       string `json:"id"`       // of the history, 32 hex digits
	Revision uint64 `json:"revision"` // the last one that both have
	Head     string `json:"head"`     // the history digest there, lower-case hex
}

// History is the identity of what a node holds: the same revision is the same record
// on all nodes that hold the same history.
type History struct {
	ID      string   `json:"id"`                // 32 hex digits
	Parents []Origin `json:"parents,omitempty"` // the histories it went on from, oldest first
}

// Position is a place in a history: everything up to Revision, of History. What is
// kept to go on with later must be both, for a cluster that was restored or forced out
// of another one has other records under the same revisions.
type Position struct {
	Revision uint64
	History  string // 32 hex digits; empty: whichever there is
}

// String returns REVISION.HISTORY, or the revision alone. It is what the id of a
// server-sent event is, too.
func (p Position) String() string {
	text := strconv.FormatUint(p.Revision, 10)
	if p.History == "" {
		return text
	}
	return text + "." + p.History
}

// ParsePosition reads what String returns.
func ParsePosition(text string) (Position, error) {
	digits, history, named := strings.Cut(text, ".")
	p := Position{History: history}
	var err error
	if p.Revision, err = strconv.ParseUint(digits, 10, 64); err != nil {
		return Position{}, fmt.Errorf("%w: the position %.80q does not begin with a revision", ErrInvalid, text)
	}
	if named && !IsHistoryID(history) {
		return Position{}, fmt.Errorf("%w: the position %.80q names no history: 32 lower-case hex digits must follow the dot", ErrInvalid, text)
	}
	return p, nil
}

// historyIDBytes is the length of a history's id.
const historyIDBytes = 16

// IsHistoryID reports whether s is the id of a history: 32 lower-case hex digits.
func IsHistoryID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*historyIDBytes && strings.ToLower(s) == s
}

// Change is one line, or one event's data, of GET /changes: the put that set a
// key. With ?values=true it carries the value, if that has ChangeValueBytesMax at
// most, and else Location, the path at which every node serves it.
//
// A line with a type that its reader does not know is no put: it counts its revision
// and goes on.
type Change struct {
	Type string `json:"type,omitempty"` // what happened; empty for a put
	Record
	History  string  `json:"-"` // that Revision is of, as the stream says; empty if it does not
	Value    *string `json:"value,omitempty"`
	Encoding string  `json:"encoding,omitempty"` // EncodingBase64 when the value is not UTF-8
	Location string  `json:"location,omitempty"`
}

// Bytes returns the value that the change carries, if it does: Values asked for
// it and it has ChangeValueBytesMax at most. Get reads larger ones.
func (c Change) Bytes() (value []byte, carried bool, err error) {
	if c.Value == nil {
		return nil, false, nil
	}
	value, err = RawValue(*c.Value, c.Encoding)
	return value, err == nil, err
}

// Position is where the change is in its history: ChangesOptions with its Revision as
// Since, and its History, go on behind it.
func (c Change) Position() Position { return Position{Revision: c.Revision, History: c.History} }

// ChangeValueBytesMax is the largest value that travels in GET /changes.
const ChangeValueBytesMax = 1 << 20

// ChangesMark is a line of GET /changes that is no change: it has an Event, and
// no key. As a server-sent event its name is Event and its id Revision.
type ChangesMark struct {
	Event    string `json:"event"`             // EventHeartbeat or EventEnd
	Revision uint64 `json:"revision"`          // everything up to here was sent, or is not of the prefix: go on with ?since=
	History  string `json:"history,omitempty"` // that Revision is of: go on with &history=
	Reason   string `json:"reason,omitempty"`  // of an end
	Detail   string `json:"detail,omitempty"`  // of an end, a sentence
}

// The values of ChangesMark.Event.
const (
	EventHeartbeat = "heartbeat" // nothing new; only streams that follow have it
	EventEnd       = "end"       // the last line of a stream that its node ends
)

// The values of ChangesMark.Reason.
const (
	EndClosing    = "closing"         // the node stops: go on at another
	EndSlow       = "slow"            // the reader was too slow
	EndOverloaded = "overloaded"      // the node has no memory for it now
	EndHistory    = "history-changed" // the node has another history now: ask again, which tells
	EndFailed     = "failed"          // the node cannot read on
)
