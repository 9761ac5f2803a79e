package httpapi

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	batchLineBytesMax = jsonPutBytesMax // of one line
	batchLineBytes    = 512             // what a put costs besides its bytes
	batchWindow       = 8192            // lines of one request that are read and have no result written yet
	batchPuts         = 8192            // puts of all streams that are being decided

	batchLongLines = 2                              // over lineBufferBytes are read at a time
	batchLongBytes = jsonCopies * batchLineBytesMax // reserved for each of them

	batchGroupLines = 1024      // that are put together, at most
	batchGroupBytes = 512 << 10 // of their values, about; larger ones are put alone

	// batchRestingStreams is how many requests in lines there are at a time that do
	// nothing. Each takes some 200 KiB.
	batchRestingStreams = 256

	// batchStallShare is the part of the idle timeout for which a full spool waits.
	batchStallShare = 3
)

// manyPuts answers POST /keys: streams of puts, in lines (putLines) or in frames
// (putFrames). All of them share its budgets. Nobody who holds a part of slots or
// memory waits for more, except for a put's decision: whoever waits gets it in the end.
type manyPuts struct {
	*puts
	lines, frames *sessions
	leads         func() bool
	spillDir      string
	spill         int64
	stall         time.Duration // how long a full spool waits for a client that reads nothing

	long   *budget.Budget      // bytes of long lines being read
	slots  *semaphore.Weighted // puts being decided
	memory *semaphore.Weighted // bytes of puts being decided
}

func newManyPuts(cfg *DatabaseConfig, p *puts) *manyPuts {
	lines := newSessions(cfg, int64(cfg.BatchStreams)+batchRestingStreams)
	lines.working = budget.New(int64(cfg.BatchStreams))
	return &manyPuts{
		puts: p, lines: lines, frames: newSessions(cfg, int64(cfg.FramedStreams)),
		leads:    cfg.Cluster.Leads,
		spillDir: cfg.SpillDir, spill: cfg.SpillBytes, stall: p.idle / batchStallShare,
		long:   budget.New(batchLongLines * batchLongBytes),
		slots:  semaphore.NewWeighted(batchPuts),
		memory: semaphore.NewWeighted(max(cfg.BatchBytesInFlight, batchLongBytes)),
	}
}

// serve answers one request.
func (b *manyPuts) serve(w http.ResponseWriter, r *http.Request) error {
	if err := refuseBatch(r); err != nil {
		return err
	}
	if !inFrames(r) {
		return b.lines.serve(w, r, putting, api.ContentTypeNDJSON, newSpool(b.spillDir, b.spill), b.newPutLines)
	}
	if b.leads() {
		w.Header().Set(api.HeaderRole, api.RoleLeader)
	}
	return b.frames.serve(w, r, putting, api.ContentTypeFrames, newSpool("", 0), func(s *session) codec {
		return &putFrames{frameCodec: newFrameCodec(s), b: b}
	})
}

// refuseBatch refuses what is about one put, or makes the stream unreadable.
func refuseBatch(r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	for _, name := range []string{"If-Match", "If-None-Match", "Repr-Digest", "Content-Range", api.HeaderPutID} {
		if len(r.Header.Values(name)) > 0 {
			return aboutOnePut(name)
		}
	}
	if name := givenUserMeta(r.Header); name != "" {
		return aboutOnePut(name)
	}
	if err := refuseEncoded(r.Header); err != nil {
		return err
	}
	return refuseUnframed(r)
}

func aboutOnePut(header string) error {
	return invalid("%s is about a single put; it cannot be used with POST /keys", header)
}

// admit takes what a put costs of the budgets. It calls flush before it waits.
func (b *manyPuts) admit(ctx context.Context, cost int64, flush func() error) error {
	if b.memory.TryAcquire(cost) {
		if b.slots.TryAcquire(1) {
			return nil
		}
		b.memory.Release(cost)
	}
	if err := flush(); err != nil {
		return err
	}
	if err := b.memory.Acquire(ctx, cost); err != nil {
		return err
	}
	if err := b.slots.Acquire(ctx, 1); err != nil {
		b.memory.Release(cost)
		return err
	}
	return nil
}

// release gives back what puts cost.
func (b *manyPuts) release(puts int, cost int64) {
	b.slots.Release(int64(puts))
	b.memory.Release(cost)
}

var errPutPanicked = errors.New("the put panicked")

// putAll tries once, and calls each once for every put, also when the store panics.
func (b *manyPuts) putAll(ctx context.Context, puts []kvstore.SmallPut, each func(i int, result kvstore.PutResult, err error)) {
	told := make([]bool, len(puts))
	tell := func(i int, result kvstore.PutResult, err error) {
		if !told[i] {
			told[i] = true
			each(i, result, err)
		}
	}
	defer func() {
		if cause := recover(); cause != nil {
			b.lines.logger.Error("panic while putting", "panic", cause, "stack", string(debug.Stack()))
			for i := range puts {
				tell(i, kvstore.PutResult{}, errPutPanicked)
			}
		}
	}()
	if ctx.Err() != nil { // nothing must be proposed any more
		for i := range puts {
			tell(i, kvstore.PutResult{}, kvstore.ErrUnavailable)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, b.answer)
	defer cancel()
	for at := 0; at < len(puts); {
		from := at
		for at < len(puts) && len(puts[at].Value) <= kvstore.ChunkBytes {
			at++
		}
		if at > from {
			b.db.PutMany(ctx, puts[from:at], func(i int, result kvstore.PutResult, err error) { tell(from+i, result, err) })
			continue
		}
		p := &puts[at]
		result, err := b.db.Put(ctx, kvstore.PutRequest{Key: p.Key, ContentType: p.ContentType, UserMeta: p.UserMeta, Body: bytes.NewReader(p.Value), Size: int64(len(p.Value))})
		tell(at, result, err)
		at++
	}
}
