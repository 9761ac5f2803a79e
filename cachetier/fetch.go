package cachetier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	// bodiesMax is how many values over smallBytes are read at the same time,
	// so that loads hold 64 MiB at most whatever is asked.
	bodiesMax  = 64
	smallBytes = 64 << 10
)

// fetcher reads records from database nodes.
type fetcher struct {
	databases *databases
	http      *http.Client
	log       *slog.Logger
	hedge     time.Duration // fixed hedge delay; 0 = by measured latency
	now       func() time.Time
	bodies    chan struct{}                                // one token for each larger body being read
	running   *sync.WaitGroup                              // Node.loads: every attempt is counted
	learned   func(d *database, history kvstore.HistoryID) // hears of the history that a node has when none was known

	requests, hedges atomic.Uint64
	latency          latencies // of loads, until the value is there
}

// attempt is the end of one request to one database node.
type attempt struct {
	d   *database
	raw []byte
	err error
}

// fetch reads the encoded record of key from the fastest database node that has the era's
// history; a second one is asked when it is slow, the others when they fail. errAbsent
// when a node says that the key is not set, kvstore.ErrUnavailable (with what each one
// said) when none gave an answer.
//
// The caller holds a count of f.running.
func (f *fetcher) fetch(ctx context.Context, e *era, key kvstore.Key, c kvstore.Consistency) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	race := &race{fetcher: f, era: e, key: key, consistency: c, left: f.databases.preference(e.history), began: f.now()}
	race.ended = make(chan attempt, len(race.left))
	raw, err := race.run(ctx)
	if err == nil || errors.Is(err, errAbsent) {
		f.latency.observe(f.now().Sub(race.began))
	}
	return raw, err
}

// race is one fetch. It is owned by the goroutine in run; attempts only send
// to ended, which has room for all of them.
type race struct {
	*fetcher
	era         *era
	key         kvstore.Key
	consistency kvstore.Consistency
	left        []*database // not asked yet
	asked       []*database // no answer yet
	ended       chan attempt
	said        []string // how attempts failed
	began       time.Time
}

func (r *race) run(ctx context.Context) ([]byte, error) {
	if len(r.left) == 0 {
		return nil, fmt.Errorf("%w: %s", kvstore.ErrUnavailable, r.databases.why(r.era.history))
	}
	hedge := time.NewTimer(r.start(ctx))
	defer hedge.Stop()
	for len(r.asked) > 0 {
		select {
		case a := <-r.ended:
			if a.err == nil || errors.Is(a.err, errAbsent) {
				r.won(a.d)
				return a.raw, a.err
			}
			r.lost(ctx, a)
			if len(r.left) > 0 {
				hedge.Reset(r.start(ctx))
			}
		case <-hedge.C:
			if len(r.left) > 0 {
				r.hedges.Add(1)
				hedge.Reset(r.start(ctx))
			}
		case <-ctx.Done():
			return nil, r.gaveUp(context.Cause(ctx))
		}
	}
	return nil, r.gaveUp(nil)
}

// start asks the next node and returns how long to wait before the one after.
func (r *race) start(ctx context.Context) time.Duration {
	d := r.left[0]
	r.left = r.left[1:]
	r.asked = append(r.asked, d)
	r.requests.Add(1)
	r.running.Go(func() {
		raw, err := r.read(ctx, r.era, d, r.key, r.consistency)
		r.ended <- attempt{d, raw, err}
	})
	if r.hedge > 0 {
		return r.hedge
	}
	return d.hedgeDelay()
}

// won lets the nodes that were asked before and have not answered count as slow.
func (r *race) won(winner *database) {
	for _, d := range r.asked {
		if d == winner {
			return
		}
		d.outrun(r.now().Sub(r.began))
	}
}

// lost records a failure. One that the end of the whole fetch caused says
// nothing about the node.
func (r *race) lost(ctx context.Context, a attempt) {
	for i, d := range r.asked {
		if d == a.d {
			r.asked = append(r.asked[:i:i], r.asked[i+1:]...)
			break
		}
	}
	if ctx.Err() == nil && !errors.Is(a.err, errElsewhere) {
		a.d.failed(r.now())
	}
	r.said = append(r.said, fmt.Sprintf("%s: %v", a.d.url, a.err))
	if errors.Is(a.err, errDigest) {
		r.log.Error("database node sent wrong bytes", "database", a.d.url, "error", a.err)
	}
}

func (r *race) gaveUp(cause error) error {
	for _, d := range r.asked {
		if errors.Is(cause, context.DeadlineExceeded) {
			d.failed(r.now())
		}
		r.said = append(r.said, d.url+": no answer in time")
	}
	err := fmt.Errorf("%w: %s", kvstore.ErrUnavailable, strings.Join(r.said, "; "))
	if cause != nil {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

// read is one GET: the metadata is in the headers, the value in the body. It
// verifies the bytes. Of a large value only the header is taken. An answer of another
// history, be it a value or an absence, is none.
func (f *fetcher) read(ctx context.Context, e *era, d *database, key kvstore.Key, c kvstore.Consistency) (raw []byte, err error) {
	defer recovered(f.log, "a read from "+d.url, &err)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the transfer of a body that is not read
	began := f.now()
	resp, err := f.get(ctx, e, d, key, c)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotFound {
		if err := f.compare(e, d, resp.Header); err != nil {
			return nil, err
		}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, f.refused(d, resp, began)
	}
	if resp.ContentLength < 0 {
		return nil, errors.New("answered with a value of unknown length")
	}
	r, err := api.RecordFromHeader(string(key), resp.Header, resp.ContentLength)
	if err != nil {
		return nil, fmt.Errorf("answered with a value that lacks its record: %w", err)
	}
	meta, err := metaFromRecord(key, r)
	if err != nil {
		return nil, err
	}
	d.read(f.now(), f.now().Sub(began))
	return f.complete(ctx, meta, resp.Body)
}

// compare refuses an answer that is not of the era's history.
func (f *fetcher) compare(e *era, d *database, h http.Header) error {
	named, err := e.check(h)
	if err == nil {
		return nil
	}
	d.tells(named)
	if e.history.IsZero() {
		f.learned(d, named)
	}
	return err
}

// get asks for a key, and for the history that the answer is of.
func (f *fetcher) get(ctx context.Context, e *era, d *database, key kvstore.Key, c kvstore.Consistency) (*http.Response, error) {
	var query url.Values
	if c == kvstore.Local {
		query = url.Values{"consistency": {"local"}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+api.KeyTarget(string(key), query), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(api.HeaderHistory, e.history.String())
	return f.http.Do(req)
}

// refused tells a definite absence from everything else that is no value.
// Only the API's own 404 is one: any other server has a page for that too.
func (f *fetcher) refused(d *database, resp *http.Response, began time.Time) error {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	err := client.ResponseError(resp)
	if mediaType == api.ContentTypeProblem && errors.Is(err, api.ErrNotFound) {
		d.read(f.now(), f.now().Sub(began))
		return errAbsent
	}
	return fmt.Errorf("refused with %d: %w", resp.StatusCode, err)
}

// complete encodes a record, with the bytes of a small value, which it verifies.
func (f *fetcher) complete(ctx context.Context, meta kvstore.Meta, body io.Reader) ([]byte, error) {
	if meta.Size > inlineBytesMax {
		return encodeHeader(meta, true), nil
	}
	if meta.Size > smallBytes {
		select {
		case f.bodies <- struct{}{}:
			defer func() { <-f.bodies }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	raw := encodeHeader(meta, false)
	header := len(raw)
	raw = raw[:header+int(meta.Size)]
	if _, err := io.ReadFull(body, raw[header:]); err != nil {
		return nil, fmt.Errorf("value of %d bytes broke off: %w", meta.Size, err)
	}
	return raw, verifyBytes(&meta, raw[header:])
}
