package cachetier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	// bodiesMax is how many values over smallBytes are read at the same time, so that loads
	// hold at most 64 MiB.
	bodiesMax  = 64
	smallBytes = 64 << 10
)

// fetcher reads records from database nodes.
type fetcher struct {
	databases *databases
	http      *http.Client
	log       *slog.Logger
	hedge     time.Duration // fixed hedge delay; 0: by measured latency
	now       func() time.Time
	bodies    *semaphore.Weighted                          // of bodiesMax, for each larger body being read
	running   *sync.WaitGroup                              // Node.loads: every read is counted
	learned   func(d *database, history kvstore.HistoryID) // hears of the history that a node has when none was known

	requests, hedges atomic.Uint64
	latency          latencies // of loads, until the value is there
}

// fetch reads the encoded record of key from the fastest database node that has the era's
// history. It asks a second node when that one is slow, and the others when nodes fail.
// errAbsent: a node says that the key is not set. kvstore.ErrUnavailable: none gave an
// answer; the text says what each one said.
//
// The caller holds a count of f.running.
func (f *fetcher) fetch(ctx context.Context, e *era, key kvstore.Key, c kvstore.Consistency) ([]byte, error) {
	left := f.databases.preference(e.history)
	if len(left) == 0 {
		return nil, fmt.Errorf("%w: %s", kvstore.ErrUnavailable, f.databases.why(e.history))
	}
	type answer struct {
		from *database
		raw  []byte
		err  error
	}
	var (
		began   = f.now()
		asked   []*database // that have not answered, in the order in which they were asked
		said    []string    // how the others failed
		answers = make(chan answer, len(left))
	)
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	ask := func() (patience time.Duration) {
		d := left[0]
		left, asked = left[1:], append(asked, d)
		f.requests.Add(1)
		f.running.Go(func() {
			raw, err := f.read(reading, e, d, key, c)
			answers <- answer{d, raw, err}
		})
		return cmp.Or(f.hedge, d.hedgeDelay())
	}
	hedge := time.NewTimer(ask())
	defer hedge.Stop()
	for len(asked) > 0 {
		select {
		case a := <-answers:
			at := slices.Index(asked, a.from)
			if a.err == nil || errors.Is(a.err, errAbsent) {
				took := f.now().Sub(began)
				for _, slower := range asked[:at] {
					slower.outrun(took)
				}
				f.latency.observe(took)
				return a.raw, a.err
			}
			asked = slices.Delete(asked, at, at+1)
			said = append(said, fmt.Sprintf("%s: %v", a.from.url, a.err))
			if ctx.Err() == nil && !errors.Is(a.err, errElsewhere) { // else it is not the node's fault
				a.from.failed(f.now())
			}
			if errors.Is(a.err, errDigest) {
				f.log.Error("database node sent wrong bytes", "database", a.from.url, "error", a.err)
			}
			if len(left) > 0 {
				hedge.Reset(ask())
			}
		case <-hedge.C:
			if len(left) > 0 {
				f.hedges.Add(1)
				hedge.Reset(ask())
			}
		case <-ctx.Done():
			cause := context.Cause(ctx)
			for _, d := range asked {
				if errors.Is(cause, context.DeadlineExceeded) {
					d.failed(f.now())
				}
				said = append(said, d.url+": no answer in time")
			}
			return nil, fmt.Errorf("%w: %s (%w)", kvstore.ErrUnavailable, strings.Join(said, "; "), cause)
		}
	}
	return nil, fmt.Errorf("%w: %s", kvstore.ErrUnavailable, strings.Join(said, "; "))
}

// read is one GET: the metadata is in the headers, the value in the body. It verifies the
// bytes. Of a large value it takes only the header. An answer of another history is none,
// whether it is a value or an absence.
func (f *fetcher) read(ctx context.Context, e *era, d *database, key kvstore.Key, c kvstore.Consistency) (raw []byte, err error) {
	defer recovered(f.log, "a read from "+d.url, &err)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the transfer of a body that is not read
	var query url.Values
	if c == kvstore.Local {
		query = url.Values{"consistency": {"local"}}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+api.KeyTarget(string(key), query), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(api.HeaderHistory, e.history.String())
	began := f.now()
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotFound {
		if named, err := e.check(resp.Header); err != nil {
			d.tells(named)
			if e.history.IsZero() {
				f.learned(d, named)
			}
			return nil, err
		}
	}
	if resp.StatusCode != http.StatusOK {
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		err := client.ResponseError(resp)
		// Only the API's own 404 is an absence: any other server has a page for that too.
		if mediaType == api.ContentTypeProblem && errors.Is(err, api.ErrNotFound) {
			d.read(f.now(), f.now().Sub(began))
			return nil, errAbsent
		}
		return nil, fmt.Errorf("refused with %d: %w", resp.StatusCode, err)
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
	if meta.Size > inlineBytesMax {
		return encodeHeader(meta, true), nil
	}
	if meta.Size > smallBytes {
		if err := f.bodies.Acquire(ctx, 1); err != nil {
			return nil, err
		}
		defer f.bodies.Release(1)
	}
	raw = encodeHeader(meta, false)
	header := len(raw)
	raw = raw[:header+int(meta.Size)]
	if _, err := io.ReadFull(resp.Body, raw[header:]); err != nil {
		return nil, fmt.Errorf("value of %d bytes broke off: %w", meta.Size, err)
	}
	return raw, verifyBytes(&meta, raw[header:])
}
