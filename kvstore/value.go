package kvstore

import (
	"bytes"
	"context"
	"io"
	"time"
)

// DefaultContentType is the content type of a value that was put without one.
const DefaultContentType = "application/octet-stream"

// Meta is everything about a set key but its bytes.
type Meta struct {
	Key         Key
	Revision    Revision
	Size        int64 // bytes of the value
	SHA256      Digest
	ContentType string
	Time        time.Time // clock of the node that proposed the put, UTC, in nanoseconds
	PutID       string    // id of the put that won
	By          string    // principal that put it; empty in a cluster that is open to all
	UserMeta    UserMeta
}

// Value is a found value: its Meta and a way to read its bytes. A Value never
// changes and is safe for concurrent use.
type Value struct {
	Meta
	inline []byte
	stream func(ctx context.Context) io.ReadSeekCloser // nil for an inline value
}

// NewValue returns a value held in memory. It keeps b, which must not change.
func NewValue(m Meta, b []byte) *Value { return &Value{Meta: m, inline: b} }

// NewStreamedValue returns a value that is read piece by piece: each call of
// open starts a reader at offset 0 which the caller of Open closes.
func NewStreamedValue(m Meta, open func(ctx context.Context) io.ReadSeekCloser) *Value {
	return &Value{Meta: m, stream: open}
}

// Bytes returns the bytes of a value held in memory, which must not be
// modified. It returns false for a streamed value: use Open.
func (v *Value) Bytes() ([]byte, bool) { return v.inline, v.stream == nil }

// Open returns a reader of the bytes, for either kind of value. ctx bounds the
// reader's whole life. One reader belongs to one goroutine; the caller closes it.
func (v *Value) Open(ctx context.Context) io.ReadSeekCloser {
	if v.stream != nil {
		return v.stream(ctx)
	}
	return inlineReader{bytes.NewReader(v.inline)}
}

// inlineReader reads bytes held in memory; closing it does nothing.
type inlineReader struct{ *bytes.Reader }

// Close does nothing.
func (inlineReader) Close() error { return nil }
