package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/checker"
)

// prober tries each request once, at one node, over plain HTTP, and records what the server
// answered. A client that retries would hide most of that.
type prober struct {
	who  string
	node string
	url  string
	http *http.Client
	into *history
}

func newProber(who string, n *node, into *history, patience time.Duration) *prober {
	return &prober{who: who + "@" + n.Name, node: n.Name, url: n.URL(), into: into,
		http: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 4}}}
}

// digestOf returns the name of a value in Ops.
func digestOf(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:])
}

// answer is one HTTP answer, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func noBody() sizedBody { return bytes.NewReader(nil) }

// sizedBody is a request's body of known length.
type sizedBody interface {
	io.Reader
	Len() int
}

func (p *prober) send(ctx context.Context, method, target string, body sizedBody, header http.Header) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+target, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(body.Len())
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{resp.StatusCode, resp.Header, b}, nil
}

// put tries to set a key. It returns the status, 0 without an answer.
func (p *prober) put(ctx context.Context, key string, value []byte, strict bool) int {
	return p.putFrom(ctx, key, value, bytes.NewReader(value), strict)
}

// putFrom is put with a body that sends the value, or only part of it.
func (p *prober) putFrom(ctx context.Context, key string, value []byte, body sizedBody, strict bool) int {
	op := checker.Op{Key: key, Value: digestOf(value), Who: p.who, Call: int64(p.into.now())}
	header := http.Header{}
	if strict {
		header.Set("If-None-Match", "*")
	}
	a, err := p.send(ctx, http.MethodPut, "/key/"+key, body, header)
	op.Return = int64(p.into.now())
	if err != nil {
		op.Outcome = checker.Unknown
		p.into.add(p.node, op)
		return 0
	}
	if definite := p.putOutcome(&op, a); definite {
		p.into.refused("put " + strconv.Itoa(a.status))
	} else {
		p.into.add(p.node, op)
	}
	return a.status
}

// putOutcome records what the answer to a put says. It reports whether the put was definitely
// not carried out.
func (p *prober) putOutcome(op *checker.Op, a *answer) (refused bool) {
	var said struct { // of a PutAnswer and of a Problem alike
		Revision uint64 `json:"revision"`
		SHA256   string `json:"sha256"`
	}
	_ = json.Unmarshal(a.body, &said) // what is missing is missed below
	op.Revision = said.Revision
	op.Outcome = checker.Unknown
	switch a.status {
	case http.StatusCreated:
		op.Outcome = checker.Created
	case http.StatusOK:
		op.Outcome = checker.Unchanged
	case http.StatusConflict, http.StatusPreconditionFailed:
		op.Outcome, op.Seen = checker.Conflict, said.SHA256
		if a.status == http.StatusPreconditionFailed && said.SHA256 == op.Value {
			op.Outcome = checker.Unchanged // a strict put tells no difference
		}
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInsufficientStorage:
		return true
	case http.StatusGatewayTimeout, http.StatusInternalServerError: // the latter of a node that stops
		op.Revision = 0
		return false
	default:
		p.into.strange("%s: put %s was answered %d: %s", p.who, op.Key, a.status, a.body)
		op.Revision = 0
		return false
	}
	if said.Revision == 0 || said.SHA256 == "" || op.Outcome == checker.Created && said.SHA256 != op.Value {
		p.into.strange("%s: put %s of %s was answered %d with %s", p.who, op.Key, op.Value, a.status, a.body)
	}
	return false
}

// get reads a key. It returns the status, 0 without an answer.
func (p *prober) get(ctx context.Context, key string) int {
	op := checker.Op{Key: key, Who: p.who, Call: int64(p.into.now())}
	a, err := p.send(ctx, http.MethodGet, "/key/"+key, noBody(), nil)
	op.Return = int64(p.into.now())
	if err != nil {
		p.into.refused("get without an answer")
		return 0
	}
	switch a.status {
	case http.StatusOK:
		op.Outcome, op.Seen = checker.Found, digestOf(a.body)
		op.Revision, _ = strconv.ParseUint(a.header.Get(api.HeaderRevision), 10, 64)
		if tag := a.header.Get("Etag"); tag != `"`+op.Seen+`"` || op.Revision == 0 {
			p.into.strange("%s: get %s gave bytes with the digest %s, ETag %s, revision %d", p.who, key, op.Seen, tag, op.Revision)
		}
		p.into.add(p.node, op)
	case http.StatusNotFound:
		op.Outcome = checker.Absent
		p.into.add(p.node, op)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInternalServerError:
		p.into.refused("get " + strconv.Itoa(a.status))
	default:
		p.into.strange("%s: get %s was answered %d: %s", p.who, key, a.status, a.body)
	}
	return a.status
}

// list reads the keys of a prefix, limit at a time. If a candidate belongs on a page but is
// not there, it was absent while that page was requested.
func (p *prober) list(ctx context.Context, prefix string, candidates []string, limit int) {
	slices.Sort(candidates)
	last, after := "", "" // the newest key listed, and where the next page begins
	for {
		call := int64(p.into.now())
		a, err := p.send(ctx, http.MethodGet, fmt.Sprintf("/keys?limit=%d&prefix=%s%s", limit, url.QueryEscape(prefix), after), noBody(), nil)
		back := int64(p.into.now())
		if err != nil || a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests || a.status == http.StatusInternalServerError {
			p.into.refused("list without an answer")
			return
		}
		var page api.KeysPage
		if err := json.Unmarshal(a.body, &page); a.status != http.StatusOK || err != nil || len(page.Keys) > limit || len(page.Keys) == 0 && page.Next != "" {
			p.into.strange("%s: list of %s was answered %d: %v, %d keys, next page %q", p.who, prefix, a.status, err, len(page.Keys), page.Next)
			return
		}
		listed, from := map[string]bool{}, last
		for _, k := range page.Keys {
			if k.Key <= last || !strings.HasPrefix(k.Key, prefix) {
				p.into.strange("%s: list of %s has %q after %q", p.who, prefix, k.Key, last)
			}
			last, listed[k.Key] = k.Key, true
			p.into.add(p.node, checker.Op{Key: k.Key, Outcome: checker.Found, Seen: k.SHA256, Revision: k.Revision, Call: call, Return: back, Who: p.who + " list"})
		}
		for _, key := range candidates {
			if key > from && (key < last || page.Next == "") && !listed[key] {
				p.into.add(p.node, checker.Op{Key: key, Outcome: checker.Absent, Call: call, Return: back, Who: p.who + " list"})
			}
		}
		if page.Next == "" {
			return
		}
		after = "&after=" + url.QueryEscape(page.Next)
	}
}

// keyNumber returns the n-th key of an episode; a hundred keys share a prefix.
func keyNumber(n int64) string { return fmt.Sprintf("%s%d", keyPrefix(n), n) }

func keyPrefix(n int64) string { return fmt.Sprintf("k/%d/", n/100) }
