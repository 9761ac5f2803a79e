package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	getLineBytesMax = 16 << 10 // of one line
	getLines        = 16       // that are looked up at once
	getLinesBytes   = 2 << 20  // what looking them up takes: that many values as JSON
	getsInFlight    = 4096     // of all requests in frames, where each has a goroutine
)

// manyReader finds several values at once.
type manyReader interface {
	// many calls each once for every key, one call after the other. What each
	// gets is what Reader.Get returns, and valid inside of it.
	many(ctx context.Context, keys []kvstore.Key, c kvstore.Consistency, each func(i int, v *kvstore.Value, source string, err error))
}

// manyGets answers POST /keys/get: lines that name keys in, a line with what
// each is set to out, in their order; or both in frames, and in no order.
//
// Lines are looked up as they come, those that are there already together, and
// answered before more are read. So memory is bounded, and a client that reads
// nothing is waited for: with no more in memory than the answer it does not take.
type manyGets struct {
	*framed
	from   manyReader
	memory *budget.Budget
	begin  func(s *framedStream, local bool) frameWork
}

// newManyGets reads from a DB.
func newManyGets(cfg *DatabaseConfig, memory *budget.Budget) *manyGets {
	db := cfg.DB
	return &manyGets{
		framed: newFramed(cfg), from: manyFromDB{db}, memory: memory,
		begin: func(s *framedStream, local bool) frameWork { return newFramedGets(s, db, cfg.Hot, local) },
	}
}

// newCachedGets reads from a cache node's Reader.
func newCachedGets(cfg *CacheConfig, from Reader, memory *budget.Budget) *manyGets {
	slots := semaphore.NewWeighted(getsInFlight)
	return &manyGets{
		framed: &framed{counters: cfg.Counters, logger: cfg.Logger, closing: cfg.Closing, idle: cfg.BodyIdleTimeout, answer: cfg.AnswerTimeout,
			streams: budget.New(defaultFramedStreams)},
		from: manyFromReader{from}, memory: memory,
		begin: func(s *framedStream, local bool) frameWork {
			return &framedReads{framedStream: s, from: from, local: local, slots: slots}
		},
	}
}

// manyReads adds the route that reads many keys.
func (rt *router) manyReads(g *manyGets) { rt.on(http.MethodPost, pathManyGets, reading, g.answerMany) }

func (g *manyGets) answerMany(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r.URL.RawQuery, "consistency")
	if err != nil {
		return err
	}
	consistency, err := consistencyOf(q)
	if err != nil {
		return err
	}
	if err := refuseEncoded(r.Header); err != nil {
		return err
	}
	if err := refuseUnframed(r); err != nil {
		return err
	}
	if inFrames(r) {
		return g.serve(w, r, reading, func(s *framedStream) frameWork { return g.begin(s, consistency == kvstore.Local) })
	}
	return g.lines(w, r, consistency)
}

// lines answers a request in NDJSON.
func (g *manyGets) lines(w http.ResponseWriter, r *http.Request, consistency kvstore.Consistency) error {
	select {
	case <-g.closing:
		return kvstore.ErrClosed
	default:
	}
	l := &getLiner{manyGets: g, host: hostOf(r), consistency: consistency}
	l.place = g.streams.Hold(l.host, graceOf(g.idle), l.giveWay)
	defer l.place.Close()
	if err := room(r.Context(), l.place, 1); err != nil {
		return err
	}
	d := startStream(w, r, g.idle, api.ContentTypeNDJSON)
	defer d.Close()
	d.place, l.duplex = l.place, d

	ctx, done := context.WithCancel(context.WithoutCancel(r.Context()))
	var watching sync.WaitGroup
	defer watching.Wait()
	defer done()
	watching.Go(func() {
		select {
		case <-g.closing:
			d.within(batchLinger, batchClosingMax)
		case <-ctx.Done():
		}
	})
	l.ctx, l.lines = ctx, &lineReader{src: d, max: getLineBytesMax, grow: func() error { return errLineTooLong }}
	if err := l.run(); err != nil {
		panic(http.ErrAbortHandler) // or what was written would pass for all
	}
	return nil
}

// getLiner is one request in NDJSON. It belongs to the handler's goroutine.
type getLiner struct {
	*manyGets
	ctx         context.Context
	host        string // the client's address
	place       *budget.Holder
	needed      atomic.Bool // the place, by another stream
	duplex      *duplex
	lines       *lineReader
	consistency kvstore.Consistency
	taken       uint64 // lines that are done with, blank ones included
}

// getLine is one line that is not blank.
type getLine struct {
	number uint64 // of the input
	key    kvstore.Key
	result api.GetResult
	text   []byte
}

// run answers lines until there are no more. An error means that the client is
// gone.
func (l *getLiner) run() error {
	for {
		l.place.Resting()
		batch, end := l.take()
		l.place.Working()
		end, err := l.answerAll(batch, end)
		if err != nil {
			return err
		}
		if end == io.EOF {
			return nil
		}
		if end != nil {
			l.duplex.within(batchLinger, batchLingerMax)
			_, _ = io.CopyN(io.Discard, l.duplex, batchDiscardBytes)
			l.duplex.last()
			return nil
		}
	}
}

// giveWay ends the request because another one needs its place. It is called
// while nothing is to be answered, or when the client takes answers too slowly.
func (l *getLiner) giveWay() {
	l.needed.Store(true)
	l.duplex.within(placeLinger, placeLinger)
}

// answerAll writes the results of lines, and what ends the answer early: end, or
// that there is no memory for them. That of a look-up is held while it lasts, and of
// it what the results take until the client has taken them.
func (l *getLiner) answerAll(batch []getLine, end error) (early, err error) {
	held := l.memory.Hold(l.host, graceOf(l.idle), l.giveWay)
	defer held.Close()
	if len(batch) > 0 {
		err := held.Acquire(l.ctx, getLinesBytes, l.answer)
		if errors.Is(err, budget.ErrShort) {
			l.taken = batch[0].number - 1
			batch, end = nil, err
		} else if err != nil {
			return end, err
		}
	}
	l.find(batch)
	var out []byte
	for i := range batch {
		out = append(out, batch[i].text...)
		batch[i].text = nil
	}
	held.Keep(int64(cap(out)))
	if end != nil && end != io.EOF {
		out = append(out, l.broken(end)...)
	}
	l.duplex.out = held
	defer func() { l.duplex.out = nil }()
	if _, err := l.duplex.Write(out); err != nil {
		return end, err
	}
	return end, l.duplex.conn.Flush()
}

// take returns the lines that are at hand, or the next one, and what reading
// ended with if it did.
func (l *getLiner) take() (batch []getLine, end error) {
	for len(batch) == 0 || len(batch) < getLines && l.lines.buffered() {
		text, err := l.lines.next()
		if err != nil {
			return batch, err
		}
		l.taken = l.lines.number
		if len(bytes.TrimSpace(text)) > 0 {
			batch = append(batch, l.parse(text))
		}
	}
	return batch, nil
}

// parse reads one line. One that is invalid has its result.
func (l *getLiner) parse(text []byte) (line getLine) {
	var document api.GetDocument
	err := decodeStrict(text, &document)
	if err == nil {
		line.key, err = keyIn(&api.PutDocument{Key: document.Key, KeyBase64: document.KeyBase64})
	}
	line.number = l.lines.number
	line.result.Key, line.result.KeyBase64 = api.JSONKey(string(line.key))
	if err != nil {
		p := problemFor(reading, err)
		line.key = ""
		line.result.Status, line.result.Type, line.result.Detail = api.BatchInvalid, p.document.Type, fmt.Sprintf("line %d: %s", l.lines.number, p.document.Detail)
		line.text = mustLine(&line.result)
	}
	return line
}

// find gives every line its result.
func (l *getLiner) find(batch []getLine) {
	keys := make([]kvstore.Key, 0, len(batch))
	places := make([]int, 0, len(batch))
	for i := range batch {
		if batch[i].text == nil {
			keys, places = append(keys, batch[i].key), append(places, i)
		}
	}
	if len(keys) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.answer)
	defer cancel()
	l.from.many(ctx, keys, l.consistency, func(i int, v *kvstore.Value, source string, err error) {
		line := &batch[places[i]]
		l.fill(&line.result, v, source, err)
		line.text = mustLine(&line.result)
	})
}

// fill says in r what was found of its key.
func (l *getLiner) fill(r *api.GetResult, v *kvstore.Value, source string, err error) {
	switch {
	case errors.Is(err, kvstore.ErrNotFound):
		l.counters.Gets.Add(1)
		l.counters.Absences.Add(1)
		r.Status = api.GetAbsent
		return
	case err != nil:
		p := problemFor(reading, err)
		if p.document.Status == http.StatusInternalServerError && l.ctx.Err() == nil { // else the client went away
			l.counters.Errors.Add(1)
			l.logger.Error("get of a line failed", "err", err)
		}
		r.Status, r.Type, r.Detail = api.BatchFailed, p.document.Type, p.document.Detail
		return
	}
	l.counters.Gets.Add(1)
	at, size := v.Time.UTC(), v.Size
	r.Status, r.Revision, r.SHA256, r.Size = api.GetFound, uint64(v.Revision), v.SHA256.String(), &size
	r.ContentType, r.Time, r.Cache = mediaTypeOf(&v.Meta), &at, source
	r.By, r.Meta = v.By, v.UserMeta.Map()
	raw, inline := v.Bytes()
	if !inline || len(raw) > frame.ValueBytesMax {
		r.Location = locationOf(v.Key)
		return
	}
	text, encoding := textOf(raw)
	r.Value, r.Encoding = &text, encoding
}

// broken is the last line of an answer that ends before its request.
func (l *getLiner) broken(err error) []byte {
	kind, why := api.ProblemInvalid, fmt.Sprintf("the body broke off (%v)", err)
	select {
	case <-l.closing:
		kind, why = api.ProblemUnavailable, "this node is stopping; send the rest to another node"
	default:
		switch {
		case l.needed.Load():
			kind, why = api.ProblemUnavailable, detailPlaceNeeded
		case errors.Is(err, budget.ErrShort):
			kind, why = api.ProblemOverloaded, "this node is overloaded; send the rest later, or to another node"
		case errors.Is(err, errLineTooLong):
			kind, why = api.ProblemTooLarge, fmt.Sprintf("the line is longer than the limit of %d bytes", getLineBytesMax)
		case errors.Is(err, os.ErrDeadlineExceeded):
			kind, why = api.ProblemTimeout, fmt.Sprintf("no byte arrived for %v", l.idle)
		}
	}
	return mustLine(&api.GetResult{Status: api.BatchError, Type: kind, Line: l.taken + 1,
		Detail: fmt.Sprintf("the stream ends before line %d: %s", l.taken+1, why)})
}

func mustLine(r *api.GetResult) []byte {
	text, err := marshal(r)
	if err != nil {
		panic(fmt.Sprintf("httpapi: a result does not marshal: %v", err))
	}
	return text
}

// manyFromDB makes one round of ReadIndex for all absences.
type manyFromDB struct{ db DB }

func (m manyFromDB) many(ctx context.Context, keys []kvstore.Key, c kvstore.Consistency, each func(int, *kvstore.Value, string, error)) {
	var misses []int
	m.db.GetMany(keys, func(i int, v *kvstore.Value, err error) {
		if c != kvstore.Local && errors.Is(err, kvstore.ErrNotFound) {
			misses = append(misses, i)
			return
		}
		each(i, v, "", err)
	})
	if len(misses) == 0 {
		return
	}
	if err := m.db.Confirm(ctx); err != nil {
		for _, i := range misses {
			each(i, nil, "", err)
		}
		return
	}
	left := make([]kvstore.Key, len(misses))
	for n, i := range misses {
		left[n] = keys[i]
	}
	m.db.GetMany(left, func(n int, v *kvstore.Value, err error) { each(misses[n], v, "", err) })
}

// manyFromReader asks for all keys at once.
type manyFromReader struct{ from Reader }

func (m manyFromReader) many(ctx context.Context, keys []kvstore.Key, c kvstore.Consistency, each func(int, *kvstore.Value, string, error)) {
	type found struct {
		v      *kvstore.Value
		source string
		err    error
	}
	all := make([]found, len(keys))
	var reading sync.WaitGroup
	for i := range keys {
		reading.Go(func() {
			defer func() {
				if cause := recover(); cause != nil {
					all[i].err = fmt.Errorf("%w: %v", errGetPanicked, cause)
				}
			}()
			all[i].v, all[i].source, all[i].err = m.from.Get(ctx, keys[i], c)
		})
	}
	reading.Wait()
	for i := range all {
		each(i, all[i].v, all[i].source, all[i].err)
	}
}
