package kvstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
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

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = 1024

// Key names a value: 1 to MaxKeyBytes bytes, any but NUL. It need not be UTF-8.
type Key string

// Validate returns nil, or an error that wraps ErrInvalidKey and says what is
// wrong with k.
func (k Key) Validate() error {
	switch {
	case k == "":
		return fmt.Errorf("%w: it is empty; a key has 1 to %d bytes", ErrInvalidKey, MaxKeyBytes)
	case len(k) > MaxKeyBytes:
		return fmt.Errorf("%w: it has %d bytes; a key has 1 to %d", ErrInvalidKey, len(k), MaxKeyBytes)
	case strings.IndexByte(string(k), 0) >= 0:
		return fmt.Errorf("%w: byte %d is NUL; every other byte is allowed", ErrInvalidKey, strings.IndexByte(string(k), 0))
	}
	return nil
}

// Revision counts the winning puts of a store: the first is 1, and there are
// no gaps. 0 stands for the empty store.
type Revision uint64

// Digest is a SHA-256 digest: of a value, or of a whole history.
type Digest [32]byte

// String returns d in lower-case hex, 64 characters.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what Digest.String wrote; upper-case hex is accepted too.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return Digest{}, fmt.Errorf("SHA-256 digest in hex has %d characters, want %d", len(s), 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("SHA-256 digest %q: %w", s, err)
	}
	return d, nil
}
