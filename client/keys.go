package client

import (
	"context"
	"encoding/base64"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// KeysOptions are the choices of a listing. The zero value lists all keys.
type KeysOptions struct {
	// Prefix limits the listing to keys that begin with it, byte for byte.
	Prefix string

	// After leaves out this key and all that come before it in byte order.
	After string

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
// An error ends the loop and is its last element.
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
	client *Client
	opts   KeysOptions
	last   string // the key listed last; the next one is above it
}

// run returns nil when the list, or the loop over it, is at its end.
func (l *listing) run(ctx context.Context, yield func(Record, error) bool) error {
	after := ""
	if l.last = l.opts.After; l.last != "" {
		after = KeysToken(l.last)
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
func (l *listing) fetch(ctx context.Context, after string) (KeysPage, error) {
	var page KeysPage
	last := l.last
	check := func(resp *http.Response) error {
		page, last = KeysPage{}, l.last
		if err := readJSON(resp, &page); err != nil {
			return err
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
	if err != nil {
		return page, err
	}
	l.last = last
	return page, resp.Body.Close()
}

// keysTokenVersion is the first byte of a decoded token; what follows is a key.
const keysTokenVersion = 1

// KeysToken is what ?after= of GET /keys takes, to list what comes behind key.
// Nodes and this package make it here; everybody else must not look inside, so
// that it can change.
func KeysToken(key string) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{keysTokenVersion}, key...))
}

func (l *listing) query(after string) string {
	q := url.Values{}
	if l.opts.Prefix != "" {
		q.Set("prefix", l.opts.Prefix)
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
