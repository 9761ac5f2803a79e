package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// KeysOptions are the choices of a listing. The zero value lists all keys.
type KeysOptions struct {
	// Prefix limits the listing to keys that begin with it, byte for byte.
	Prefix string

	// After leaves out this key and all that come before it in byte order.
	After string

	// History is the history in which After was listed, if that must be the one that
	// is listed now. When it is empty the listing keeps to the one that it finds.
	History string

	// PageLimit is how many keys to ask for at a time; 0 leaves it to the
	// server. It changes how many requests are made, not what is listed.
	PageLimit int

	// Local accepts a list from a node that may lag behind. Without it the
	// list has every key whose put was acknowledged before its page was asked
	// for.
	Local bool
}

// Keys lists the keys that are set, in byte order, with what is known of them
// besides their bytes (Time is not). Pages are fetched as the loop goes on, each
// from whichever endpoint answers. Keys that are set meanwhile are listed if
// the listing has not passed them; nothing ever disappears from it.
//
// An error ends the loop and is its last element. One is a *HistoryChangedError: all
// pages are of one history.
func (c *Client) Keys(ctx context.Context, opts KeysOptions) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		l := &listing{client: c, opts: opts}
		if err := l.run(ctx, yield); err != nil {
			yield(Record{}, err)
		}
	}
}

// listing is one walk over the pages.
type listing struct {
	client  *Client
	opts    KeysOptions
	last    string // the key listed last; the next one is above it
	history string // of the pages; empty: not known yet
}

// run returns nil when the list, or the loop over it, is at its end.
func (l *listing) run(ctx context.Context, yield func(Record, error) bool) error {
	after := ""
	l.last, l.history = l.opts.After, l.opts.History
	if l.history != "" && !api.IsHistoryID(l.history) {
		return fmt.Errorf("list keys: %w: the history %.80q is not 32 lower-case hex digits", ErrInvalid, l.history)
	}
	if l.last != "" {
		after = api.KeysToken(l.last)
	}
	for {
		page, err := l.fetch(ctx, after)
		if err != nil {
			return err
		}
		for _, r := range page.Keys {
			if !yield(r, nil) {
				return nil
			}
		}
		switch page.Next {
		case "":
			return nil
		case after:
			return fmt.Errorf("list keys: %w: a page names itself as the next one", ErrServer)
		}
		after = page.Next
	}
}

// fetch gets one page and checks that it goes on where the one before ended:
// pages may come from different nodes.
func (l *listing) fetch(ctx context.Context, after string) (api.KeysPage, error) {
	var page api.KeysPage
	last, history := l.last, l.history
	check := func(resp *http.Response) error {
		page, last = api.KeysPage{}, l.last
		if err := readJSON(resp, &page); err != nil {
			return err
		}
		history = cmp.Or(resp.Header.Get(api.HeaderHistory), l.history)
		if l.history != "" && history != l.history {
			return &HistoryChangedError{History: history}
		}
		for _, r := range page.Keys {
			key, err := r.RawKey()
			if err != nil || key <= last || !strings.HasPrefix(key, l.opts.Prefix) {
				return unexpected(resp, fmt.Sprintf("key %q after %q in the list of prefix %q", key, last, l.opts.Prefix))
			}
			last = key
		}
		return nil
	}
	resp, err := l.client.do(ctx, &call{op: "list keys", method: http.MethodGet, target: "/keys" + l.query(after), answer: check})
	var changed *HistoryChangedError
	if errors.As(err, &changed) {
		changed.Asked.History = l.history
	}
	if err != nil {
		return page, err
	}
	l.last, l.history = last, history
	return page, resp.Body.Close()
}

func (l *listing) query(after string) string {
	q := url.Values{}
	if l.opts.Prefix != "" {
		q.Set("prefix", l.opts.Prefix)
	}
	if l.history != "" {
		q.Set("history", l.history)
	}
	if after != "" {
		q.Set("after", after)
	}
	if l.opts.PageLimit > 0 {
		q.Set("limit", strconv.Itoa(l.opts.PageLimit))
	}
	if l.opts.Local {
		q.Set("consistency", "local")
	}
	return encodeQuery(q)
}

func encodeQuery(q url.Values) string {
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}
