package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
)

// PutItem is one put of many.
type PutItem struct {
	Key         string
	Value       []byte            // must not change until its result is there
	ContentType string            // empty means application/octet-stream
	Meta        map[string]string // kept with the value, see PutOptions.Meta; must not change either
}

// PutResult is how one put of many went.
type PutResult struct {
	Index  int // of the item, from 0
	Key    string
	Status string // BatchCreated, BatchUnchanged, BatchConflict or BatchInvalid

	// What the key is set to, unless the item is invalid.
	Revision uint64
	SHA256   string
	Size     int64

	// Resent: the item was sent more than once, because a stream broke off. Each has a
	// put id of its own, so it is created all the same if it was this very item that
	// set the key.
	Resent bool

	// Err is nil for created and unchanged. A conflict is a *ConflictError,
	// which says who won.
	Err error
}

// PutAll sets the keys of all items and yields one result for each, in their
// order. Items are sent while results are read, many at a time in one stream
// (POST /keys in frames), so it is much faster than a Put each. It is for small values:
// those over 64 KiB, and all where the node does not know frames, go as requests of
// their own. Items with the same key are decided in their order.
//
// How one item went is in PutResult.Err and does not end the loop. Items that a
// node could not decide, and those of a stream that broke off, are sent again,
// to another endpoint, as long as something is decided in Config.RetryTimeout
// or, if ctx has a deadline, before it. After that the loop ends with an error
// (its last element; PutResult.Index is the first item without a result):
// ErrOutcomeUnknown if some of the items without a result may have been put.
// Repeating is safe.
//
// items is consumed in a goroutine that PutAll waits for: when the loop is left
// early it must not block for long in producing the next item. Not more than
// about 8 MiB (or one item) is taken from it ahead of the results.
func (c *Client) PutAll(ctx context.Context, items iter.Seq[PutItem]) iter.Seq2[PutResult, error] {
	return func(yield func(PutResult, error) bool) {
		b := newBatch(ctx, c)
		defer b.close()
		b.running.Go(func() { b.take(items) })
		b.results(yield)
	}
}

const opBatch = "put many"

const (
	batchItemsMax = 4096    // that are taken and have no result
	batchBytesMax = 8 << 20 // of them
	batchAlone    = 32      // requests of their own at a time
	batchItemCost = 256     // bytes of an item, besides what it says
	batchAsks     = 1024    // items, of which one is a put of its own: it looks for the leader
)

// batch is one call of PutAll: a window of puts on the stream to one endpoint. An item
// that its frame does not decide becomes a put of its own, on a goroutine of its own,
// which knows all there is to know about tries and endpoints.
type batch struct {
	client  *Client
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	order   chan *batchItem // without a result, the oldest first
	room    chan struct{}   // capacity 1: bytes has become less
	wake    chan struct{}   // capacity 1: an item is over
	alone   chan struct{}   // one for each request of its own
	decided atomic.Int64    // unix nanoseconds of the last result
	told    atomic.Bool     // of silence, since then

	mu    sync.Mutex
	ended bool                  // no more goroutines
	bytes int                   // of the items that have no result
	last  map[string]*batchItem // the newest of them with each key
}

func newBatch(ctx context.Context, c *Client) *batch {
	b := &batch{client: c, order: make(chan *batchItem, batchItemsMax), room: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		alone: make(chan struct{}, batchAlone), last: make(map[string]*batchItem)}
	b.ctx, b.cancel = context.WithCancel(ctx)
	b.decided.Store(time.Now().UnixNano())
	return b
}

// close ends what is on its way.
func (b *batch) close() {
	b.cancel()
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.running.Wait()
}

// batchItem is an item on its way.
type batchItem struct {
	put
	batch  *batch
	cost   int         // bytes
	frame  framedCall  // its put is nil if it does not fit a frame
	stream *mux.Stream // that the frame is on; nil: none. Set by take before order has it
	next   *batchItem  // of the same key, which waits for this one; guarded by batch.mu
	over   atomic.Bool // the rest may be read
	answer PutAnswer
	err    error
	unsure bool // a try got no answer
}

// take begins the puts of all items, as many at a time as fit the window.
func (b *batch) take(items iter.Seq[PutItem]) {
	defer close(b.order)
	n := 0
	for item := range items {
		if b.ctx.Err() != nil {
			return
		}
		i := &batchItem{batch: b, put: put{client: b.client, key: item.Key, value: item.Value, opts: PutOptions{ContentType: item.ContentType, Meta: item.Meta}}}
		i.cost = len(item.Key) + len(item.Value) + len(item.ContentType) + batchItemCost
		if checkKey(i.key) == nil && fitsFrame(i.key, int64(len(i.value)), frame.ValueBytesMax, &i.opts) {
			i.inFrames(&i.frame)
		} else {
			i.opts.PutID = NewPutID()
		}
		added, first := b.add(i)
		for ; !added; added, first = b.add(i) {
			select {
			case <-b.room:
			case <-b.ctx.Done():
				return
			}
		}
		if first {
			n++
			b.begin(i, n%batchAsks != 0)
		}
		b.order <- i // for which add has seen room: what was begun must be in it
	}
}

// add counts an item in, if there is room for it, and in order. first is whether no other
// with its key is before it.
func (b *batch) add(i *batchItem) (added, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes > 0 && b.bytes+i.cost > batchBytesMax || len(b.order) == cap(b.order) { // only take sends to it
		return false, false
	}
	b.bytes += i.cost
	before := b.last[i.key]
	b.last[i.key] = i
	if before == nil || before.over.Load() {
		return true, true
	}
	before.next = i
	return true, false
}

// drop counts an item out, which has a result.
func (b *batch) drop(i *batchItem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= i.cost
	if b.last[i.key] == i {
		delete(b.last, i.key)
	}
	wake(b.room)
}

// begin sends an item in a frame if there is a stream to the endpoint that puts begin
// at, and else, or if it may not, as a put of its own.
func (b *batch) begin(i *batchItem, mayFrame bool) {
	if i.frame.put != nil && mayFrame {
		s := b.client.streams.puts[b.client.ranking.first(true)].Stream()
		if s != nil {
			i.stream = s
			if s.StartListener(b.ctx, &i.frame.call, i) == nil {
				return
			}
			i.stream = nil
		}
	}
	b.alonePut(i)
}

// AppendFrame implements mux.Request.
func (i *batchItem) AppendFrame(out []byte, id uint32) []byte { return i.frame.AppendFrame(out, id) }

// Answered implements mux.Request.
func (i *batchItem) Answered(answer *frame.Frame) error {
	f := &i.frame
	if err := f.Answered(answer); err != nil {
		return err
	}
	i.batch.client.heard()
	switch {
	case f.err == nil:
		i.answer, i.err = i.answered(f)
	case retriable(&EndpointError{Err: f.err}) || errors.Is(f.err, ErrDiskReserve):
		i.Failed(true, f.err)
		return nil
	default:
		i.err = fmt.Errorf("put %q: %w", i.key, f.err)
	}
	i.batch.end(i, true)
	return nil
}

// Failed implements mux.Listener: an item that its frame has not decided becomes a put of
// its own.
func (i *batchItem) Failed(sent bool, err error) {
	var ended *mux.EndedError
	i.unsure = i.unsure || !definite(&EndpointError{Sent: sent, Err: err}) && !errors.As(err, &ended) && !errors.Is(err, ErrDiskReserve)
	i.batch.alonePut(i)
}

// alonePut makes an item a put of its own.
func (b *batch) alonePut(i *batchItem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.running.Go(func() { b.put(i) })
	}
}

// end notes that an item is over, decided or given up, and begins the next one with its
// key.
func (b *batch) end(i *batchItem, decided bool) {
	if decided {
		b.decided.Store(time.Now().UnixNano())
		b.told.Store(false)
	}
	b.mu.Lock()
	i.over.Store(true)
	next := i.next
	b.mu.Unlock()
	wake(b.wake)
	if next != nil {
		b.alonePut(next)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// put decides an item.
func (b *batch) put(i *batchItem) {
	for round := 0; ; round++ {
		i.answer, i.err = b.try(i)
		var gone *RequestError
		full := errors.Is(i.err, ErrDiskReserve)
		lost := errors.As(i.err, &gone)
		if !full && !lost {
			b.end(i, true)
			return
		}
		_, limited := b.ctx.Deadline()
		if lost && (gone.Cause != nil || limited) || time.Since(time.Unix(0, b.decided.Load())) >= b.client.retryTimeout {
			break
		}
		if full && b.client.wait(b.ctx, backoff(round, 0)) != nil {
			break
		}
	}
	b.end(i, false)
}

// try is Client.Put.
func (b *batch) try(i *batchItem) (PutAnswer, error) {
	if err := checkKey(i.key); err != nil {
		return PutAnswer{}, fmt.Errorf("put %q: %w", i.key, err)
	}
	call := i.call()
	call.alone, call.unsure = b.alone, i.unsure
	call.tell = func(s Silence) {
		if !b.told.Swap(true) {
			s.Op = opBatch
			b.client.onSilence(s)
		}
	}
	defer func() { i.unsure = call.unsure }()
	i.body = nil
	if i.frame.put != nil {
		return i.framed(b.ctx, call, &framedCall{lanes: i.frame.lanes, put: i.frame.put})
	}
	i.hold()
	return i.single(b.ctx, call)
}

// results yields the results in the order of the items.
func (b *batch) results(yield func(PutResult, error) bool) {
	for index := 0; ; index++ {
		var i *batchItem
		more := true
		select {
		case i, more = <-b.order:
		case <-b.ctx.Done():
		}
		if !more {
			return
		}
		if i == nil {
			yield(PutResult{Index: index}, b.giveUp(nil, b.ctx.Err()))
			return
		}
		b.await(i)
		result, err := i.result(index)
		if err != nil {
			yield(PutResult{Index: index}, b.giveUp(i, err))
			return
		}
		if !yield(result, nil) {
			return
		}
		b.drop(i)
	}
}

// await waits until an item is over. One that its stream does not answer becomes a put
// of its own.
func (b *batch) await(i *batchItem) {
	if i.over.Load() {
		return
	}
	patience := time.NewTimer(b.client.patience(b.ctx, time.Now().Add(b.client.retryTimeout), len(b.client.endpoints)))
	defer patience.Stop()
	gone := b.ctx.Done()
	for !i.over.Load() {
		forget := (*mux.Stream).GiveUp
		select {
		case <-b.wake:
			continue
		case <-patience.C:
		case <-gone:
			gone, forget = nil, (*mux.Stream).Drop
		}
		if i.stream == nil {
			continue // it has a time limit of its own
		}
		if sent, open := forget(i.stream, &i.frame.call); open {
			i.Failed(sent, errIdle)
		}
	}
}

// giveUp ends what is on its way, and says why there are no more results: because of an
// item, or, if that is nil, of cause.
func (b *batch) giveUp(first *batchItem, cause error) error {
	b.close()
	kind := ErrUnavailable
	var gone *RequestError
	var endpoints []*EndpointError
	refused := !errors.As(cause, &gone)
	if !refused {
		kind, endpoints, cause = gone.Kind, gone.Endpoints, gone.Cause
	}
	unsure, waiting := first != nil && first.unsure, false
	for i := range b.order {
		sent := false
		if i.stream != nil && !i.over.Load() {
			sent, _ = i.stream.Drop(&i.frame.call)
		}
		unsure = unsure || i.unsure || sent || i.over.Load() && i.err == nil
		waiting = true
	}
	switch {
	case unsure:
		kind = ErrOutcomeUnknown
	case refused && (first != nil || !waiting):
		return fmt.Errorf("%s: %w", opBatch, cause)
	}
	return &RequestError{Op: opBatch, Kind: kind, Endpoints: endpoints, Cause: cause}
}

// result is what became of an item. An error means that it is not decided.
func (i *batchItem) result(index int) (PutResult, error) {
	r := PutResult{Index: index, Key: i.key, Resent: i.unsure, Revision: i.answer.Revision, SHA256: i.answer.SHA256, Size: i.answer.Size, Err: i.err}
	var lost *ConflictError
	switch {
	case i.answer.Revision != 0: // the bytes may have changed on the way, which is in Err
		r.Status = BatchUnchanged
		if i.answer.Created {
			r.Status = BatchCreated
		}
	case errors.As(i.err, &lost):
		r.Status, r.Revision, r.SHA256, r.Size = BatchConflict, lost.Revision, lost.SHA256, lost.Size
	case unputtable(i.err):
		r.Status = BatchInvalid
	default:
		return r, i.err
	}
	return r, nil
}

// unputtable reports that a put was refused for what it is.
func unputtable(err error) bool {
	var status *StatusError
	if errors.As(err, &status) && status.Problem.Status != 0 {
		return status.Problem.Status == http.StatusBadRequest || status.Problem.Status == http.StatusRequestEntityTooLarge
	}
	return errors.Is(err, ErrInvalid)
}
