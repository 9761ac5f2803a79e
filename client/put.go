package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// PutOptions are the choices of a put. The zero value is an ordinary one.
type PutOptions struct {
	// ContentType is kept with the key; empty means application/octet-stream.
	ContentType string

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
	op := fmt.Sprintf("put %q", key)
	if err := checkKey(key); err != nil {
		return PutAnswer{}, fmt.Errorf("%s: %w", op, err)
	}
	replay, err := newReplayBody(body)
	if err != nil {
		return PutAnswer{}, fmt.Errorf("%s: %w", op, err)
	}
	defer replay.detach()
	header, err := putHeader(replay, opts)
	if err != nil {
		return PutAnswer{}, fmt.Errorf("%s: %w", op, err)
	}
	query := url.Values{}
	if opts.KeepExisting {
		query.Set("on-conflict", "keep")
	}
	put := &call{op: op, method: http.MethodPut, target: KeyTarget(key, query), header: header, body: replay, mutates: true}
	var answer PutAnswer
	if _, err := c.doJSON(ctx, put, &answer); err != nil {
		return PutAnswer{}, err
	}
	if sent, all := replay.sentDigest(); all && !opts.KeepExisting && sent != answer.SHA256 {
		return answer, fmt.Errorf("%s: %w: sent %s, the key is now set to %s: the bytes changed on the way", op, ErrDigestMismatch, sent, answer.SHA256)
	}
	return answer, nil
}

// PutBytes is Put of a value in memory. The value must not change meanwhile.
func (c *Client) PutBytes(ctx context.Context, key string, value []byte, opts PutOptions) (PutAnswer, error) {
	return c.Put(ctx, key, bytes.NewReader(value), opts)
}

func putHeader(body *replayBody, opts PutOptions) (http.Header, error) {
	h := http.Header{}
	h.Set("Content-Type", opts.ContentType)
	if opts.ContentType == "" {
		h.Set("Content-Type", "application/octet-stream")
	}
	id := opts.PutID
	if id == "" {
		id = NewPutID()
	}
	h.Set(HeaderPutID, id)
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
