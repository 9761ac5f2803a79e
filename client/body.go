package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"
)

const (
	expectBytesMin = 1 << 20 // larger bodies ask before they are sent
	digestBytesMax = 1 << 20 // smaller bodies are hashed before they are sent
)

// errBodySource: the caller's own reader failed, which no other endpoint can
// change.
var errBodySource = errors.New("body cannot be read")

// replayBody is a request body that can be sent again from its beginning.
//
// net/http may go on reading a body after it has returned an answer. Two tries
// must never read the one source at the same time, so a new try takes the
// source away from the reader of the try before.
type replayBody struct {
	size  int64
	start int64

	mu      sync.Mutex // held during every use of source
	source  io.ReadSeeker
	current *replayReader
}

// newReplayBody takes source from where it stands to its end.
func newReplayBody(source io.ReadSeeker) (*replayBody, error) {
	start, err := source.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBodySource, err)
	}
	end, err := source.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBodySource, err)
	}
	if end < start {
		return nil, fmt.Errorf("%w: its position is past its end", errBodySource)
	}
	return &replayBody{size: end - start, start: start, source: source}, nil
}

// open begins a try; moved is called whenever bytes were read.
func (b *replayBody) open(moved func()) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	if _, err := b.source.Seek(b.start, io.SeekStart); err != nil {
		return nil, fmt.Errorf("%w: %w", errBodySource, err)
	}
	b.current = &replayReader{body: b, left: b.size, sum: sha256.New(), moved: moved}
	return b.current, nil
}

// all reads the whole source.
func (b *replayBody) all() ([]byte, error) {
	r, err := b.open(func() {})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	value := make([]byte, b.size)
	if n, err := io.ReadFull(r, value); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = fmt.Errorf("%w: it has %d bytes instead of %d", errBodySource, n, b.size)
		}
		return nil, err
	}
	return value, nil
}

// digest hashes the whole source.
func (b *replayBody) digest() ([]byte, error) {
	r, err := b.open(func() {})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	if err == nil && n != b.size {
		err = fmt.Errorf("%w: it has %d bytes instead of %d", errBodySource, n, b.size)
	}
	return sum.Sum(nil), err
}

// sentDigest is the hash, in hex, of what the last try sent; false when that
// was not all of it.
func (b *replayBody) sentDigest() (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == nil || b.current.left != 0 {
		return "", false
	}
	return hex.EncodeToString(b.current.sum.Sum(nil)), true
}

// detach ends the last try's use of the source, which is the caller's again.
func (b *replayBody) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
}

// replayReader is the source during one try. It reads size bytes, no more: a
// file that grows meanwhile must not break the request.
type replayReader struct {
	body  *replayBody
	left  int64
	sum   hash.Hash
	moved func()
}

func (r *replayReader) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.body.current != r {
		return 0, errors.New("this try is over")
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.left)]
	n, err := r.body.source.Read(p)
	r.sum.Write(p[:n])
	r.left -= int64(n)
	if n > 0 {
		r.moved()
	}
	switch {
	case r.left == 0 && (err == nil || err == io.EOF):
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("%w: it ended %d bytes early", errBodySource, r.left)
	case err != nil:
		return n, fmt.Errorf("%w: %w", errBodySource, err)
	}
	return n, nil
}

// Close does nothing: the source belongs to the caller.
func (r *replayReader) Close() error { return nil }

// watchedBody is the body of an answer. Reads that wait longer than idle for
// a byte end the try; the time between reads is the reader's own.
type watchedBody struct {
	ctx  context.Context // the try's
	body io.ReadCloser
	dog  *time.Timer // ends the try when nothing has moved
	idle time.Duration
	end  func()
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.dog.Reset(b.idle)
	defer b.dog.Stop()
	n, err := b.body.Read(p)
	if err != nil && err != io.EOF && context.Cause(b.ctx) == errIdle {
		err = errIdle
	}
	return n, err
}

func (b *watchedBody) Close() error {
	defer b.end()
	return b.body.Close()
}

// verifiedBody hands on a value's bytes and compares their digest with the
// record's. The last bytes are given out only after they have passed, so a
// wrong value is never seen complete.
type verifiedBody struct {
	body io.ReadCloser
	want string
	left int64
	sum  hash.Hash
	err  error // what every later Read returns
}

func newVerifiedBody(body io.ReadCloser, r Record) *verifiedBody {
	return &verifiedBody{body: body, want: r.SHA256, left: r.Size, sum: sha256.New()}
}

func (b *verifiedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left == 0 {
		b.err = b.verdict()
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.sum.Write(p[:n])
	b.left -= int64(n)
	if b.left == 0 {
		if b.err = b.verdict(); b.err != io.EOF {
			return 0, b.err
		}
		return n, nil
	}
	if err == io.EOF {
		err = fmt.Errorf("value broke off %d bytes before its end: %w", b.left, io.ErrUnexpectedEOF)
	}
	b.err = err
	return n, err
}

func (b *verifiedBody) verdict() error {
	if got := hex.EncodeToString(b.sum.Sum(nil)); got != b.want {
		return fmt.Errorf("%w: sha256 of the bytes is %s, the record says %s; do not use them", ErrDigestMismatch, got, b.want)
	}
	return io.EOF
}

func (b *verifiedBody) Close() error { return b.body.Close() }

// heldBody is a verifiedBody of bytes that are all there. They are compared with
// their digest before the first is handed on.
type heldBody struct {
	value []byte
	want  [sha256.Size]byte
	at    int
	err   error // what every later Read returns
	done  bool  // they are compared
}

func (b *heldBody) Read(p []byte) (int, error) {
	if err := b.verify(); err != nil {
		return 0, err
	}
	if b.at == len(b.value) {
		return 0, io.EOF
	}
	n := copy(p, b.value[b.at:])
	b.at += n
	return n, nil
}

// WriteTo implements io.WriterTo.
func (b *heldBody) WriteTo(w io.Writer) (int64, error) {
	if err := b.verify(); err != nil {
		return 0, err
	}
	n, err := w.Write(b.value[b.at:])
	b.at += n
	return int64(n), err
}

func (b *heldBody) verify() error {
	if !b.done {
		b.done = true
		if got := sha256.Sum256(b.value); got != b.want {
			b.err = fmt.Errorf("%w: sha256 of the bytes is %x, the record says %x; do not use them", ErrDigestMismatch, got, b.want)
		}
	}
	return b.err
}

// Close makes later reads fail, as those of a closed connection do.
func (b *heldBody) Close() error {
	b.done = true
	b.err = errBodyClosed
	return nil
}

// digestText is hex.EncodeToString with one allocation.
func digestText(sum *[sha256.Size]byte) string {
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}

var errBodyClosed = errors.New("read of a closed body")
