package client

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

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
	if named && !isHistoryID(history) {
		return Position{}, fmt.Errorf("%w: the position %.80q names no history: 32 lower-case hex digits belong behind the dot", ErrInvalid, text)
	}
	return p, nil
}

// historyIDBytes is the length of a history's id.
const historyIDBytes = 16

func isHistoryID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 2*historyIDBytes && strings.ToLower(s) == s
}
