package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
)

// # Calls that travel together
//
// Puts (of values up to 32 KiB) and Gets that are under way at the same time go
// as frames on one long request to the endpoint, POST /keys and POST /keys/get,
// which is many times faster than a request each. A call that is alone is a
// request of its own, and so is every call while a stream is being opened, or at
// an endpoint that does not know frames, which is asked again after a minute: no
// call ever waits for others to come. Nothing else changes: answers, errors,
// tries, deadlines and endpoints are those of single requests. A stream on which
// no call came for 10 s ends. The items of PutAll travel on the same streams; they
// wait for one that is being opened.

// PutOptions are the choices of a put. The zero value is an ordinary one.
type PutOptions struct {
	// ContentType is kept with the key; empty means application/octet-stream.
	ContentType string

	// Meta has names and values that are kept with the key, and given back with it:
	// names of 1 to 64 lower-case letters, digits and '-', values of printable ASCII
	// without a space at either end, at most 64, and 2 KiB together. Those of the put that won
	// stay. The map must not change while Put runs.
	Meta map[string]string

	// PutID names this put, 1 to 64 visible ASCII bytes; empty means a fresh
	// random one. A repeat of the put that won, with the same id, is answered
	// Created again; so give your own to tell your puts from rivals' across
	// restarts of your process.
	PutID string

	// IfAbsent makes the put strict: a key that is set at all, even to the
	// same bytes, is ErrExists unless this put set it.
	IfAbsent bool

	// KeepExisting makes other bytes no error: the winner stays and the answer
	// has Created false.
	KeepExisting bool

	// SHA256 is the expected digest of the body. The server refuses other
	// bytes with ErrDigestMismatch. When it is nil, bodies up to 1 MiB are
	// hashed before they are sent.
	SHA256 *[32]byte
}

// check refuses what would not arrive as it is, or what no server would take. How much
// metadata there may be is for the server to say.
func (o *PutOptions) check() error {
	if err := api.CheckContentType(o.ContentType); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if o.PutID != "" {
		if err := api.CheckPutID(o.PutID); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	for name, value := range o.Meta {
		if err := api.CheckMeta(name, value); err != nil {
			return fmt.Errorf("%w: invalid metadata: %w", ErrInvalid, err)
		}
	}
	return nil
}

// NewPutID returns a put id that is unique across processes and restarts.
func NewPutID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	return hex.EncodeToString(b[:])
}

// Put sets key to the bytes from body's position to its end, once and for
// ever. It is repeated inside ctx (see the package documentation) with one
// put id, so that however many tries it takes, it either won (Created true),
// found the same bytes (Created false), or lost: a *ConflictError, which says
// who won.
//
// Other errors: ErrInvalid, ErrTooLarge, ErrDigestMismatch, ErrDiskReserve,
// ErrOverloaded and ErrUnavailable mean that this put has not happened and
// will not; ErrOutcomeUnknown means repeat the same put, with the same id.
//
// Put seeks and reads body until it returns, never after.
func (c *Client) Put(ctx context.Context, key string, body io.ReadSeeker, opts PutOptions) (PutAnswer, error) {
	defer c.putting()()
	if err := checkKey(key); err != nil {
		return PutAnswer{}, fmt.Errorf("put %q: %w", key, err)
	}
	replay, err := newReplayBody(body)
	if err != nil {
		return PutAnswer{}, fmt.Errorf("put %q: %w", key, err)
	}
	defer replay.detach()
	p := &put{client: c, key: key, opts: opts, body: replay}
	if c.coalesces(key, replay.size, &opts) {
		if p.value, err = replay.all(); err != nil {
			return PutAnswer{}, fmt.Errorf("put %q: %w", key, err)
		}
		return p.framed(ctx, p.call(), p.inFrames(new(framedCall)))
	}
	return p.single(ctx, p.call())
}

// PutBytes is Put of a value in memory. The value must not change meanwhile.
func (c *Client) PutBytes(ctx context.Context, key string, value []byte, opts PutOptions) (PutAnswer, error) {
	defer c.putting()()
	if err := checkKey(key); err != nil {
		return PutAnswer{}, fmt.Errorf("put %q: %w", key, err)
	}
	p := &put{client: c, key: key, opts: opts, value: value}
	if c.coalesces(key, int64(len(value)), &opts) {
		return p.framed(ctx, p.call(), p.inFrames(new(framedCall)))
	}
	p.hold()
	return p.single(ctx, p.call())
}

// putting counts a put in; what it returns counts it out.
func (c *Client) putting() (done func()) {
	if c.together == nil {
		return func() {}
	}
	c.together.putting.Add(1)
	return c.together.put
}

func (co *coalescer) put() { co.putting.Add(-1) }

// coalesces reports whether a put is one of several at the same time, and fits a
// frame.
func (c *Client) coalesces(key string, size int64, opts *PutOptions) bool {
	return c.together != nil && c.together.putting.Load() > 1 && fitsFrame(key, size, coalesceBytesMax, opts)
}

// fitsFrame reports whether a put with a value of at most limit bytes fits a frame. What
// a header could not carry goes alone, and so fails as it does alone.
func fitsFrame(key string, size, limit int64, opts *PutOptions) bool {
	return size <= limit && frame.PutFits(key, opts.ContentType, opts.PutID, size) && frame.MetaFits(opts.Meta) && opts.check() == nil
}

// put is one call of Put.
type put struct {
	client *Client
	key    string
	opts   PutOptions
	body   *replayBody // nil: value is all there is
	value  []byte      // if it is in memory

	// Once it has a frame.
	request frame.Put
	sum     [32]byte // of value
}

// hold makes a body of the value.
func (p *put) hold() {
	p.body = &replayBody{size: int64(len(p.value)), source: bytes.NewReader(p.value)}
}

// call is the request, whose header is filled in by prepare.
func (p *put) call() *call {
	return &call{verb: "put", key: p.key, method: http.MethodPut, mutates: true}
}

// prepare implements preparer.
func (p *put) prepare(call *call) error {
	if p.body == nil {
		p.hold()
	}
	query := url.Values{}
	if p.opts.KeepExisting {
		query.Set("on-conflict", "keep")
	}
	var err error
	call.target, call.body = api.KeyTarget(p.key, query), p.body
	call.header, err = putHeader(p.body, p.opts)
	return err
}

// single puts in requests of its own.
func (p *put) single(ctx context.Context, call *call) (PutAnswer, error) {
	if err := p.prepare(call); err != nil {
		return PutAnswer{}, fmt.Errorf("%s: %w", call.name(), err)
	}
	var answer PutAnswer
	call.answer = func(resp *http.Response) error { return readPutAnswer(resp, &answer) }
	resp, err := p.client.do(ctx, call)
	if err != nil {
		return PutAnswer{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return PutAnswer{}, err
	}
	if sent, all := p.body.sentDigest(); all {
		return p.checked(answer, sent)
	}
	return answer, nil
}

// inFrames makes f the put's call in frames, with its put id, which is the same for all
// tries.
func (p *put) inFrames(f *framedCall) *framedCall {
	if p.opts.PutID == "" {
		p.opts.PutID = NewPutID()
	}
	p.sum = sha256.Sum256(p.value)
	p.request = frame.Put{IfAbsent: p.opts.IfAbsent, Keep: p.opts.KeepExisting, HasDigest: true, Digest: p.sum,
		PutID: p.opts.PutID, ContentType: p.opts.ContentType, Meta: p.opts.Meta, Key: p.key, Value: p.value}
	if p.opts.SHA256 != nil {
		p.request.Digest = *p.opts.SHA256
	}
	f.lanes, f.put = p.client.streams.puts, &p.request
	return f
}

// framed puts by streams, where there are any.
func (p *put) framed(ctx context.Context, call *call, f *framedCall) (PutAnswer, error) {
	call.framed, call.single = f, p
	var answer PutAnswer
	call.answer = func(resp *http.Response) error { return readPutAnswer(resp, &answer) }
	resp, err := p.client.do(ctx, call)
	if err != nil {
		return PutAnswer{}, err
	}
	if !f.alone {
		return p.answered(f)
	}
	if err := resp.Body.Close(); err != nil {
		return PutAnswer{}, err
	}
	return p.checked(answer, digestText(&p.sum))
}

// answered is what the answer in a frame says.
func (p *put) answered(f *framedCall) (PutAnswer, error) {
	answer := PutAnswer{Revision: f.set.Revision, SHA256: digestText(&f.set.Digest), Size: int64(f.set.Size), Created: f.set.Created, History: f.history}
	answer.Key, answer.KeyBase64 = api.JSONKey(p.key)
	if f.set.Digest == p.sum {
		return answer, nil
	}
	return p.checked(answer, digestText(&p.sum))
}

func readPutAnswer(resp *http.Response, into *PutAnswer) error {
	*into = PutAnswer{}
	if err := readJSON(resp, into); err != nil {
		return err
	}
	into.History = resp.Header.Get(api.HeaderHistory)
	return nil
}

// checked compares what was sent with what the key is set to.
func (p *put) checked(answer PutAnswer, sent string) (PutAnswer, error) {
	if !p.opts.KeepExisting && sent != answer.SHA256 {
		return answer, fmt.Errorf("put %q: %w: sent %s, the key is now set to %s: the bytes changed on the way", p.key, ErrDigestMismatch, sent, answer.SHA256)
	}
	return answer, nil
}

func putHeader(body *replayBody, opts PutOptions) (http.Header, error) {
	if err := opts.check(); err != nil { // else the transport would refuse it, at one endpoint after the other
		return nil, err
	}
	h := http.Header{}
	for name, value := range opts.Meta {
		h.Set(api.HeaderMetaPrefix+name, value)
	}
	h.Set("Content-Type", opts.ContentType)
	if opts.ContentType == "" {
		h.Set("Content-Type", "application/octet-stream")
	}
	id := opts.PutID
	if id == "" {
		id = NewPutID()
	}
	h.Set(api.HeaderPutID, id)
	if opts.IfAbsent {
		h.Set("If-None-Match", "*")
	}
	digest, err := expectedDigest(body, opts)
	if err != nil {
		return nil, err
	}
	if digest != nil {
		h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest)+":")
	}
	return h, nil
}

func expectedDigest(body *replayBody, opts PutOptions) ([]byte, error) {
	switch {
	case opts.SHA256 != nil:
		return opts.SHA256[:], nil
	case body.size <= digestBytesMax:
		return body.digest()
	}
	return nil, nil
}
