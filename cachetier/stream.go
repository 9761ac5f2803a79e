package cachetier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	windowMin     = 1 << 20  // first range asked of a database node
	windowSeek    = 64 << 10 // first range after a seek: it may be all that is wanted
	windowMax     = 16 << 20 // ranges double up to this
	streamIdleMax = 5 * time.Second
)

// streamReader reads a large value from database nodes, a range at a time. A node that fails,
// stalls or sends another value costs only time: the rest is read from the next one, from the
// same byte on. It gives up when every node has failed since the last byte.
//
// A reader that goes from offset 0 to the end sees the whole value, and compares its digest
// before it hands out the last bytes. Later readers compare each piece with what that one saw,
// before they hand out its last bytes. A reader that seeks before anybody has seen all relies
// on the ETag and range of each answer.
//
// It belongs to one goroutine.
type streamReader struct {
	ctx     context.Context
	f       *fetcher
	history kvstore.HistoryID // that the value is of: only nodes that have it are asked
	meta    *kvstore.Meta
	idle    time.Duration // how long a read may wait for a byte

	pos    int64
	window int64 // size of the next range
	verify *verifier
	err    error // what every later Read returns; Seek clears it unless closed

	from   *database // where body comes from
	body   io.ReadCloser
	end    int64 // where body ends
	cancel context.CancelFunc
	dog    *time.Timer        // cancels the range when it fires
	failed map[*database]bool // since the last byte
	said   []string
}

var errStreamClosed = errors.New("value reader is closed")

func newStreamReader(ctx context.Context, f *fetcher, history kvstore.HistoryID, rec *record, idle time.Duration) *streamReader {
	meta := &rec.value.Meta
	return &streamReader{ctx: ctx, f: f, history: history, meta: meta, idle: idle, window: windowMin, verify: newVerifier(meta, rec.sums), failed: map[*database]bool{}}
}

// Read implements io.Reader.
func (r *streamReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.pos >= r.meta.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := r.readSome(p)
		if n > 0 {
			return r.took(p[:n])
		}
		r.drop()
		if r.ctx.Err() != nil {
			err = context.Cause(r.ctx)
		} else if err == nil {
			continue
		}
		r.err = err
		return 0, err
	}
}

// readSome returns at least one byte; or none and no error when the range failed and another
// node may be tried; or the error that ends the reading.
func (r *streamReader) readSome(p []byte) (int, error) {
	if r.body == nil {
		if err := r.openRange(); err != nil {
			return 0, err
		}
		if r.body == nil {
			return 0, nil
		}
	}
	p = p[:min(int64(len(p)), r.end-r.pos)]
	r.dog.Reset(r.idle)
	n, err := io.ReadAtLeast(r.body, p, 1)
	r.dog.Stop()
	if err != nil && n == 0 {
		r.blame(fmt.Errorf("broke off at byte %d: %w", r.pos, err))
	}
	return n, nil
}

// took accounts for bytes that were read, and verifies them.
func (r *streamReader) took(p []byte) (int, error) {
	wrong := r.verify.took(r.pos, p)
	r.pos += int64(len(p))
	clear(r.failed)
	r.said = nil
	if r.pos == r.end {
		r.drop()
	}
	if wrong != nil {
		r.err = wrong
		r.f.log.Error("streamed value has wrong bytes", "key", string(r.meta.Key), "error", r.err)
		return 0, r.err
	}
	return len(p), nil
}

// openRange asks the best node that has not failed since the last byte. It leaves body nil when
// that one fails, and returns an error when none is left.
func (r *streamReader) openRange() error {
	d := r.next()
	if d == nil {
		return fmt.Errorf("%w: value of %q from byte %d: %s", kvstore.ErrUnavailable, r.meta.Key, r.pos, strings.Join(r.said, "; "))
	}
	r.from = d
	ctx, cancel := context.WithCancel(r.ctx)
	r.cancel = cancel
	if r.dog != nil {
		r.dog.Stop()
	}
	r.dog = time.AfterFunc(r.idle, cancel)
	end := min(r.pos+r.window, r.meta.Size)
	body, err := r.request(ctx, d, end)
	r.dog.Stop()
	if err != nil {
		r.blame(err)
		cancel()
		return nil
	}
	r.body, r.end = body, end
	r.window = min(2*r.window, windowMax)
	return nil
}

func (r *streamReader) next() *database {
	if r.from != nil && !r.failed[r.from] {
		return r.from // its connection is warm
	}
	for _, d := range r.f.databases.preference(r.history) {
		if !r.failed[d] {
			return d
		}
	}
	return nil
}

func (r *streamReader) request(ctx context.Context, d *database, end int64) (body io.ReadCloser, err error) {
	defer recovered(r.f.log, "a range from "+d.url, &err)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+api.KeyTarget(string(r.meta.Key), nil), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.pos, end-1))
	r.f.requests.Add(1)
	resp, err := r.f.http.Do(req)
	if err != nil {
		return nil, err
	}
	if err := r.check(resp, end); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// check makes sure that the answer is this range of this value.
func (r *streamReader) check(resp *http.Response, end int64) error {
	if resp.StatusCode != http.StatusPartialContent {
		if resp.StatusCode >= 400 {
			return fmt.Errorf("refused with %d: %w", resp.StatusCode, client.ResponseError(resp))
		}
		return fmt.Errorf("answered %d instead of a range", resp.StatusCode)
	}
	if got, want := resp.Header.Get("ETag"), `"`+r.meta.SHA256.String()+`"`; got != want {
		return fmt.Errorf("%w: has the value %s, not %s", errDigest, got, want)
	}
	if got, want := resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", r.pos, end-1, r.meta.Size); got != want {
		return fmt.Errorf("answered the range %q instead of %q", got, want)
	}
	return nil
}

func (r *streamReader) blame(err error) {
	if r.ctx.Err() != nil {
		return
	}
	d := r.from
	d.failed(r.f.now())
	r.failed[d] = true
	r.said = append(r.said, fmt.Sprintf("%s: %v", d.url, err))
	r.f.log.Warn("database node failed while streaming a value", "database", d.url, "offset", r.pos, "error", err)
}

// drop ends the range that is being read.
func (r *streamReader) drop() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
	if r.dog != nil {
		r.dog.Stop()
	}
}

// Seek implements io.Seeker. Nothing is sent before the next Read.
func (r *streamReader) Seek(offset int64, whence int) (int64, error) {
	if r.err == errStreamClosed {
		return 0, r.err
	}
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.meta.Size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to byte %d, before the beginning", offset)
	}
	if offset != r.pos {
		r.drop()
		r.window = windowSeek
	}
	r.pos, r.err = offset, nil
	clear(r.failed)
	r.said = nil
	if offset == 0 {
		r.verify.restart()
	}
	return offset, nil
}

// Close ends the reading.
func (r *streamReader) Close() error {
	r.drop()
	r.err = errStreamClosed
	return nil
}
