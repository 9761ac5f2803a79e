package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	getLineBytesMax = 16 << 10 // of one line
	getLinesMax     = 16       // that are looked up at once
	getLinesBytes   = 2 << 20  // what looking them up takes: that many values as JSON
)

// manyGets answers POST /keys/get: streams of gets, in lines (getLines) or in frames
// (getFrames).
type manyGets struct {
	*sessions
	from   func(a getAnswers) getter
	memory *budget.Budget
}

// newManyGets reads from a DB.
func newManyGets(cfg *DatabaseConfig, memory *budget.Budget) *manyGets {
	db, hot := cfg.DB, cfg.Hot
	return &manyGets{sessions: newSessions(cfg, int64(cfg.FramedStreams)), memory: memory,
		from: func(a getAnswers) getter {
			return &storeGets{getAnswers: a, db: db, hot: hot, miss: semaphore.NewWeighted(getMisses)}
		}}
}

// newCachedGets reads from a cache node's Reader.
func newCachedGets(cfg *CacheConfig, from Reader, memory *budget.Budget) *manyGets {
	slots := semaphore.NewWeighted(getsInFlight)
	g := newManyGets(&DatabaseConfig{Counters: cfg.Counters, Logger: cfg.Logger, Closing: cfg.Closing,
		BodyIdleTimeout: cfg.BodyIdleTimeout, AnswerTimeout: cfg.AnswerTimeout, FramedStreams: defaultFramedStreams}, memory)
	g.from = func(a getAnswers) getter { return &readerGets{getAnswers: a, from: from, slots: slots} }
	return g
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
	local := consistency == kvstore.Local
	if inFrames(r) {
		return g.serve(w, r, reading, api.ContentTypeFrames, newSpool("", 0), func(s *session) codec {
			c := &getFrames{frameCodec: newFrameCodec(s), local: local}
			c.from = g.from(getAnswers{s, c.add})
			return c
		})
	}
	return g.serve(w, r, reading, api.ContentTypeNDJSON, newSpool("", 0), func(s *session) codec {
		c := &getLines{lineCodec: lineCodec{session: s}, local: local, memory: g.memory}
		c.lines = lineReader{src: s.duplex, max: getLineBytesMax, grow: func() error { return errLineTooLong }}
		c.from = g.from(getAnswers{s, c.add})
		return c
	})
}

// getLines is the codec of lines that name keys. Those that are at hand together are
// looked up together, and answered, in order, before more are read. So memory is
// bounded, and a client that reads nothing is waited for: with no more in memory than
// the answer it does not take.
type getLines struct {
	lineCodec
	from   getter
	local  bool
	memory *budget.Budget
	gets   []frame.Get // the ids are places in texts
	texts  [][]byte    // the answers to lines that are not blank
	gone   bool        // the client is, and gets are left unanswered: texts is theirs
}

// next parses a line. One that is invalid has its answer.
func (g *getLines) next() error {
	text, err := g.fetch()
	if err != nil {
		if _, told := errors.AsType[*problem](err); !told && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
			err = invalid("the body broke off (%v)", err) // which its client may still hear
		}
		return err
	}
	if len(bytes.TrimSpace(text)) == 0 {
		if len(g.texts) > 0 {
			return nil
		}
		return g.accept(0, g.lines.number)
	}
	var document api.GetDocument
	var key kvstore.Key
	if err = decodeStrict(text, &document); err == nil {
		key, err = keyIn(&api.PutDocument{Key: document.Key, KeyBase64: document.KeyBase64})
	}
	var invalid []byte
	if err != nil {
		p := problemFor(reading, err)
		r := api.GetResult{Status: api.BatchInvalid, Type: p.document.Type, Detail: fmt.Sprintf("line %d: %s", g.lines.number, p.document.Detail)}
		r.Key, r.KeyBase64 = api.JSONKey(string(key))
		invalid = mustLine(&r)
	} else {
		g.gets = append(g.gets, frame.Get{ID: uint32(len(g.texts)), Key: string(key), Local: g.local})
	}
	if g.texts = append(g.texts, invalid); len(g.texts) == getLinesMax {
		return g.flush()
	}
	return nil
}

func (g *getLines) roomy() bool { return true }

// flush answers the lines that were taken. The memory of a look-up is held while it
// lasts, and of it what the answers take until the client has taken them.
func (g *getLines) flush() error {
	if len(g.texts) == 0 || g.gone {
		return nil
	}
	defer func() {
		if !g.gone {
			g.gets, g.texts = g.gets[:0], g.texts[:0]
		}
	}()
	held := g.memory.Hold(g.host, graceOf(g.idle), g.giveWay)
	defer held.Close()
	if err := held.Acquire(g.alive, getLinesBytes, g.answer); err != nil {
		return err
	}
	if err := g.accept(len(g.gets), g.lines.number); err != nil {
		return err
	}
	g.from.begin(g.gets)
	if err := g.await(g.alive, func() bool { return g.unanswered() == 0 }); err != nil {
		g.gone = true
		return err
	}
	size := 0
	for _, text := range g.texts {
		size += len(text)
	}
	held.Keep(int64(size))
	g.duplex.writes(held)
	defer g.duplex.writes(nil)
	g.out.push(func(out []byte) []byte { return append(slices.Grow(out, size), slices.Concat(g.texts...)...) })
	return g.await(g.alive, g.out.empty)
}

func (g *getLines) last(why *problem) []byte {
	return mustLine(&api.GetResult{Status: api.BatchError, Type: why.document.Type, Line: g.taken + 1,
		Detail: fmt.Sprintf("the stream ends before line %d: %s", g.taken+1, why.document.Detail)})
}

// add makes the line about a key.
func (g *getLines) add(out []byte, get *frame.Get, v *kvstore.Value, source string, err error) []byte {
	var r api.GetResult
	r.Key, r.KeyBase64 = api.JSONKey(get.Key)
	switch {
	case err == nil:
		found(&r, v, source)
	case errors.Is(err, kvstore.ErrNotFound):
		r.Status = api.GetAbsent
	default:
		p := g.failure("get of a line failed", err)
		r.Status, r.Type, r.Detail = api.BatchFailed, p.document.Type, p.document.Detail
	}
	g.texts[get.ID] = mustLine(&r)
	return out
}

// found says in r what a key is set to.
func found(r *api.GetResult, v *kvstore.Value, source string) {
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
