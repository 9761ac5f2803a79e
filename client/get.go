package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// GetOptions are the choices of a read.
type GetOptions struct {
	// Local accepts "not set" from a node that may lag behind. Without it
	// absence is confirmed by a quorum. A found value is the same either way.
	Local bool
}

func (o GetOptions) query() url.Values {
	if o.Local {
		return url.Values{"consistency": {"local"}}
	}
	return nil
}

// Object is a found value: its record and its bytes.
type Object struct {
	Record

	// Cache is hit, peer or load when a cache node answered, else empty.
	Cache string

	// Body must be closed. Reading it compares the digest: on a mismatch it
	// returns ErrDigestMismatch instead of io.EOF, and withholds the last
	// bytes. It lives as long as the context given to Get.
	Body io.ReadCloser
}

// Get finds the value of key. ErrNotFound when it is not set. The tries end
// with the answer's first byte; a body that breaks off later is an error of
// Body.
func (c *Client) Get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	if co := c.together; co != nil {
		defer co.getting.Add(-1)
		if co.getting.Add(1) > 1 {
			return c.getFramed(ctx, key, opts)
		}
	}
	resp, record, err := c.read(ctx, http.MethodGet, key, opts)
	if err != nil {
		return nil, err
	}
	return &Object{Record: record, Cache: resp.Header.Get(api.HeaderCache), Body: newVerifiedBody(resp.Body, record)}, nil
}

// Stat is Get without the bytes (HEAD).
func (c *Client) Stat(ctx context.Context, key string, opts GetOptions) (Record, error) {
	resp, record, err := c.read(ctx, http.MethodHead, key, opts)
	if err != nil {
		return Record{}, err
	}
	return record, resp.Body.Close()
}

// framedGet is what a Get in a frame needs until it is answered, in one allocation.
type framedGet struct {
	opts   GetOptions
	call   call
	framed framedCall
}

// prepare implements preparer.
func (g *framedGet) prepare(call *call) error {
	call.target = api.KeyTarget(call.key, g.opts.query())
	return nil
}

// heldObject is an Object whose bytes are all there, in one allocation.
type heldObject struct {
	Object
	at   time.Time
	body heldBody
}

// getFramed is Get of one of several at the same time.
func (c *Client) getFramed(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	if err := checkKey(key); err != nil {
		return nil, fmt.Errorf("get %q: %w", key, err)
	}
	g := &framedGet{
		opts:   opts,
		call:   call{verb: "get", key: key, method: http.MethodGet},
		framed: framedCall{lanes: c.together.gets, get: frame.Get{Local: opts.Local, Key: key}},
	}
	g.call.framed, g.call.single = &g.framed, g
	resp, err := c.do(ctx, &g.call)
	if err != nil {
		return nil, err
	}
	if !g.framed.alone {
		return g.framed.object(), nil
	}
	record, err := c.record(key, resp)
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %w", g.call.name(), err)
	}
	return &Object{Record: record, Cache: resp.Header.Get(api.HeaderCache), Body: newVerifiedBody(resp.Body, record)}, nil
}

// object is what the answer in a frame says.
func (f *framedCall) object() *Object {
	v := &f.value
	o := &heldObject{at: time.Unix(0, v.Time).UTC(), body: heldBody{value: v.Value, want: v.Digest}}
	o.Cache, o.Body = v.Cache, &o.body
	o.Record = Record{
		Revision: v.Revision, SHA256: digestText(&v.Digest), Size: int64(len(v.Value)), ContentType: v.ContentType, Time: &o.at,
		By: v.By, Meta: v.Meta,
	}
	o.Key, o.KeyBase64 = api.JSONKey(f.get.Key)
	return &o.Object
}

func (c *Client) read(ctx context.Context, method, key string, opts GetOptions) (*http.Response, Record, error) {
	op := fmt.Sprintf("get %q", key)
	if err := checkKey(key); err != nil {
		return nil, Record{}, fmt.Errorf("%s: %w", op, err)
	}
	resp, err := c.do(ctx, &call{op: op, method: method, target: api.KeyTarget(key, opts.query())})
	if err != nil {
		return nil, Record{}, err
	}
	record, err := c.record(key, resp)
	if err != nil {
		resp.Body.Close()
		return nil, Record{}, fmt.Errorf("%s: %w", op, err)
	}
	return resp, record, nil
}

func (c *Client) record(key string, resp *http.Response) (Record, error) {
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return Record{}, unexpected(resp, "no value of known length")
	}
	record, err := api.RecordFromHeader(key, resp.Header, resp.ContentLength)
	if err != nil {
		return Record{}, unexpected(resp, err.Error())
	}
	return record, nil
}
