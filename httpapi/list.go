package httpapi

import (
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// Bounds of a page of GET /keys.
const (
	keysLimitDefault = 1000
	keysLimitMax     = 10_000
	keysPageBytes    = 1 << 20
	keysEntryBytes   = 512 // a usual entry has less; for what a small page reserves
	keysPageCopies   = 3   // as found, as a document, as JSON
)

// lists answers GET /keys.
type lists struct {
	db     Lister
	names  *identity
	idle   time.Duration // without a byte of the answer being taken
	answer time.Duration // for finding a page
	memory *budget.Budget
}

// keys answers with one page. Pages end by count and by bytes, so that any page
// may be shorter than its limit; only one without "next" is the last.
func (l *lists) keys(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "prefix", "after", "limit", "history", "consistency")
	if err != nil {
		return err
	}
	asked, err := keysRequestOf(q)
	if err != nil {
		return err
	}
	consistency, err := consistencyOf(q)
	if err != nil {
		return err
	}
	need := keysPageCopies * min(asked.LimitBytes, int64(asked.Limit)*keysEntryBytes)
	paced := newPacedWriter(w, l.idle)
	release, err := paced.hold(r, l.memory, need)
	defer release()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), l.answer)
	defer cancel()
	page, err := l.db.Keys(ctx, asked, consistency)
	if err != nil {
		return err
	}
	l.names.named(page.History).nameIn(w)
	body, err := marshal(keysDocument(&page))
	if err != nil {
		return err
	}
	page.Keys = nil
	paced.held.Keep(int64(len(body)))
	return writeBody(paced, http.StatusOK, contentTypeJSON, body)
}

func keysRequestOf(q parameters) (r kvstore.KeysRequest, err error) {
	r.LimitBytes = keysPageBytes
	if r.Prefix, err = q.prefix(); err != nil {
		return r, err
	}
	if r.History, err = q.history(); err != nil {
		return r, err
	}
	if token, _ := q.lookup("after"); token != "" {
		var of kvstore.HistoryID
		if of, r.After, err = parseToken(token); err != nil {
			return r, err
		}
		if !of.IsZero() && !r.History.IsZero() && of != r.History {
			return r, invalid(`parameter "after" is of a page of history %s, and "history" is %s; start again, without "after"`, of, r.History)
		}
		if !of.IsZero() {
			r.History = of
		}
	}
	limit, err := q.number("limit", keysLimitDefault, keysLimitMax)
	r.Limit = int(limit)
	return r, err
}

func keysDocument(page *kvstore.KeysPage) *api.KeysPage {
	document := &api.KeysPage{Keys: make([]api.Record, len(page.Keys))}
	for i := range page.Keys {
		document.Keys[i] = recordOf(&page.Keys[i])
	}
	if page.More {
		document.Next = tokenOf(page.History, page.Keys[len(page.Keys)-1].Key)
	}
	return document
}

// A decoded token begins with tokenVersion and the id of a sequence, of which there is
// one; its history and a key follow. api.KeysToken makes those without a history.
const (
	tokenVersion  = 2
	tokenSequence = 0
)

func tokenOf(history kvstore.HistoryID, key kvstore.Key) string {
	if history.IsZero() {
		return api.KeysToken(string(key))
	}
	raw := append([]byte{tokenVersion, tokenSequence}, history[:]...)
	return base64.RawURLEncoding.EncodeToString(append(raw, key...))
}

// parseToken reads what tokenOf wrote, and nothing else: not the line breaks
// either that decoding base64 passes over.
func parseToken(token string) (history kvstore.HistoryID, key kvstore.Key, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err == nil && len(raw) > 0 {
		rest := raw[1:]
		if raw[0] == tokenVersion && len(rest) > 0 {
			rest = rest[1:]
			rest = rest[copy(history[:], rest):]
		}
		if key = kvstore.Key(rest); key.Validate() == nil && tokenOf(history, key) == token {
			return history, key, nil
		}
	}
	return kvstore.HistoryID{}, "", invalid(`parameter "after" is %q, which is not a token of this API; it takes the "next" of the page before, unchanged`, token)
}
