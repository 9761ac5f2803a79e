package kvstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// discardBytes is the buffer of a body that is only hashed.
const discardBytes = 16 << 10

// Put sets a key, unless it is set: then the answer is Unchanged for the same
// bytes and Conflict for others, and no error. Created is acknowledged only
// after the put was committed and applied on this node.
//
// Errors: ErrInvalidKey, ErrInvalidContentType, ErrInvalidPutID, ErrInvalidMeta, ErrTooLarge,
// ErrBodyRead, ErrDigestMismatch, ErrDiskReserve, ErrOverloaded and
// ErrUnavailable are definite: this put did not set the key and never will.
// ErrOutcomeUnknown is not; the same put may be repeated safely, with the same
// PutID if a later Created must mean this put.
//
// Memory: up to four times of what has arrived of a value of up to 1 MiB, beyond
// that up to eight chunks of 1 MiB; 16 KiB when the key is set already. What is
// distributed takes none any more. When memory is short, the slowest bodies are
// interrupted.
func (db *DB) Put(ctx context.Context, r PutRequest) (PutResult, error) {
	if err := db.prepare(&r); err != nil {
		return PutResult{}, err
	}
	winner, err := db.store.lookup(r.Key)
	if err == nil {
		return db.compare(&r, winner, sha256.New(), 0)
	}
	if !errors.Is(err, ErrNotFound) {
		return PutResult{}, err
	}
	if err := db.cfg.Reserve(); err != nil {
		return PutResult{}, err
	}
	if r.Size >= 0 && r.Size <= ChunkBytes {
		return db.putSmall(ctx, &r)
	}
	return db.putStream(ctx, &r)
}

// prepare checks a request and fills in what may be left out.
func (db *DB) prepare(r *PutRequest) error {
	if err := r.Key.Validate(); err != nil {
		return err
	}
	if r.ContentType == "" {
		r.ContentType = DefaultContentType
	}
	if err := validateContentType(r.ContentType); err != nil {
		return err
	}
	if r.Body == nil {
		r.Body = strings.NewReader("")
	}
	if r.Size > db.cfg.MaxValueBytes {
		return &TooLargeError{LimitBytes: db.cfg.MaxValueBytes}
	}
	if err := checkBy(r.By); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidMeta, err)
	}
	if r.PutID != "" {
		return validatePutID(r.PutID)
	}
	id, err := newPutID(db.cfg.Rand)
	r.PutID = id
	return err
}

// compare reads the rest of a body whose key is set, and says what the put is
// then. h has the first done bytes already.
func (db *DB) compare(r *PutRequest, winner Meta, h hash.Hash, done int64) (PutResult, error) {
	buf := db.buffers.Get().(*[]byte)
	defer db.buffers.Put(buf)
	limit := db.cfg.MaxValueBytes
	for {
		n, err := r.Body.Read(*buf)
		h.Write((*buf)[:n])
		done += int64(n)
		if done > limit {
			return PutResult{}, &TooLargeError{LimitBytes: limit}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return PutResult{}, fmt.Errorf("%w: %w", ErrBodyRead, err)
		}
	}
	if r.Size >= 0 && done != r.Size {
		return PutResult{}, wrongLength(r.Size, done)
	}
	sum := Digest(h.Sum(nil))
	if err := checkDigest(r, sum); err != nil {
		return PutResult{}, err
	}
	return PutResult{Outcome: outcomeAgainst(&winner, r.PutID, &sum), Meta: winner}, nil
}

func checkDigest(r *PutRequest, sum Digest) error {
	if r.SHA256 != nil && *r.SHA256 != sum {
		return fmt.Errorf("%w: sent %s, the body has %s", ErrDigestMismatch, *r.SHA256, sum)
	}
	return nil
}

func wrongLength(want, got int64) error {
	return fmt.Errorf("%w: it has %d bytes, %d were announced", ErrBodyRead, got, want)
}

// putSmall proposes a value of known size that fits one command or one body.
func (db *DB) putSmall(ctx context.Context, r *PutRequest) (PutResult, error) {
	m := r.meta(db.cfg.Now(), r.Size)
	var cmd []byte
	var sumAt int
	whole := m.Size < BodyBytesMin
	if whole {
		cmd, sumAt = putCommandHeader(&m, m.Size)
	}
	head := len(cmd)
	cmd, end, release, err := db.readSmall(ctx, r, cmd)
	if err != nil {
		return PutResult{}, err
	}
	defer release()
	switch n := int64(len(cmd) - head); {
	case n < r.Size:
		return PutResult{}, wrongLength(r.Size, n)
	case !end:
		if err := expectEnd(r.Body, r.Size); err != nil {
			return PutResult{}, err
		}
	}
	m.SHA256 = Digest(sha256.Sum256(cmd[head:]))
	if err := checkDigest(r, m.SHA256); err != nil {
		return PutResult{}, err
	}
	if !whole {
		return db.putBody(ctx, &m, cmd, release)
	}
	copy(cmd[sumAt:], m.SHA256[:])
	result, err := db.log.Propose(ctx, cmd)
	return putResult(result, err)
}

// readSmall reads a value of known size behind the header of its command, or alone.
// release gives memory back; it must be called unless there is an error, and may be
// called again.
func (db *DB) readSmall(ctx context.Context, r *PutRequest, header []byte) (cmd []byte, end bool, release func(), err error) {
	head := len(header)
	if r.Size > smallPutBytes {
		data, end, held, err := db.intake.readSteps(r, &heldBody{src: r.Body}, nil, r.Size, db.intake.waits(ctx, db.cfg.InFlightWait))
		if err != nil {
			return nil, false, nil, err
		}
		return data, end, held.Close, nil
	}
	body, release := r.Body, func() {}
	if r.Size > freePutBytes {
		held := db.intake.hold(db.intake.small, r)
		body, release = &heldBody{src: r.Body, memory: held}, held.Close
		if err := held.Acquire(ctx, r.Size, db.cfg.InFlightWait); err != nil {
			release()
			return nil, false, nil, overloaded(err)
		}
	}
	cmd = slices.Grow(header, int(r.Size))[:head+int(r.Size)]
	n, end, err := fill(body, cmd[head:])
	if err != nil {
		release()
		return nil, false, nil, err
	}
	return cmd[:head+n], end, release, nil
}

// fill reads until buf is full or the body ends. Only io.EOF is an end:
// io.ErrUnexpectedEOF, which io.ReadFull also makes of a short read, is what
// net/http says of a body that broke off.
func fill(body io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		m, err := body.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, fmt.Errorf("%w: %w", ErrBodyRead, err)
		}
	}
	return n, false, nil
}

// expectEnd makes sure that a body of an announced size ends there.
func expectEnd(body io.Reader, size int64) error {
	var one [1]byte
	n, _, err := fill(body, one[:])
	if n > 0 {
		return fmt.Errorf("%w: more follows after the %d bytes announced", ErrBodyRead, size)
	}
	return err
}

// putBody puts a value that is one body. release gives its memory back.
func (db *DB) putBody(ctx context.Context, m *Meta, data []byte, release func()) (PutResult, error) {
	drop, err := db.distribute(ctx, []bodies.Body{{Digest: bodies.Digest(m.SHA256), Data: data}})
	if err != nil {
		return PutResult{}, err
	}
	defer drop()
	release()
	result, err := db.log.Propose(ctx, referCommand(m))
	return putResult(result, err)
}

// distribute brings bodies to where commands may refer to them, and keeps them here
// until drop is called: what takes long to propose must not be reclaimed meanwhile.
// Nothing is proposed, so every error is definite.
func (db *DB) distribute(ctx context.Context, list []bodies.Body) (drop func(), err error) {
	if err := db.log.Distribute(ctx, list); err != nil {
		for _, known := range []error{ErrUnavailable, ErrOverloaded, ErrDiskReserve} {
			if errors.Is(err, known) {
				return nil, err
			}
		}
		return nil, fmt.Errorf("%w: nothing was set: %w", ErrUnavailable, err)
	}
	held := make([]bodies.Digest, 0, len(list))
	drop = func() {
		for _, d := range held {
			db.store.bodies.Release(d)
		}
	}
	for i := range list {
		if d := list[i].Digest; db.store.bodies.Hold(d) {
			held = append(held, d)
			continue
		}
		drop()
		return nil, fmt.Errorf("%w: nothing was set: body %s is not here any more", ErrUnavailable, list[i].Digest)
	}
	return drop, nil
}

// putResult turns what a log answered to a put or a seal into an answer whose
// meaning is definite, or says that it is not.
func putResult(result any, err error) (PutResult, error) {
	if err != nil {
		return PutResult{}, classify(err)
	}
	switch result := result.(type) {
	case *pendingRecord:
		return PutResult{Outcome: Created, Meta: result.meta()}, nil
	case PutResult:
		return result, nil
	case error:
		if errors.Is(result, ErrUploadIncomplete) {
			return PutResult{}, fmt.Errorf("%w: nothing was set: %w", ErrUnavailable, result)
		}
		return PutResult{}, fmt.Errorf("nothing was set: %w", result)
	}
	return PutResult{}, fmt.Errorf("%w: the log answered with a %T", ErrOutcomeUnknown, result)
}

// classify makes every error of a log definite or ErrOutcomeUnknown: whatever a
// log does not vouch for may still be committed.
func classify(err error) error {
	for _, known := range []error{ErrUnavailable, ErrLevel, ErrOverloaded, ErrDiskReserve, ErrTooLarge, ErrOutcomeUnknown} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// meta returns what the request says about the value; the digest is not known
// yet.
func (r *PutRequest) meta(now time.Time, size int64) Meta {
	return Meta{Key: r.Key, Size: size, ContentType: r.ContentType, Time: now.UTC(), PutID: r.PutID, By: r.By, UserMeta: r.UserMeta}
}
