package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// Limits of JSON bodies, in bytes.
const (
	jsonPutBytesMax     = 8 << 20 // POST /key; larger values go by PUT
	jsonClusterBytesMax = 64 << 10
)

// jsonCopies is how many copies of a body may be in memory: as received, in the decoded
// document, and as the value decoded from base64.
const jsonCopies = 3

// jsonBodies reads the JSON bodies of one route. Content types are ignored:
// curl -d sends that of a form.
type jsonBodies struct {
	read  func(data []byte, into any) error // decodeStrict or decodeOpen
	limit int64                             // bytes of one body
	idle  time.Duration
	small *budget.Budget // for bodies up to smallBodyBytes
	large *budget.Budget // for those beyond
}

// decode reads the whole body into a document. release gives the memory back
// and must be called when the document is done with, whatever err is.
func (j *jsonBodies) decode(w http.ResponseWriter, r *http.Request, into any) (release func(), err error) {
	release = func() {}
	if err := refuseEncoded(r.Header); err != nil {
		return release, err
	}
	if r.ContentLength > j.limit {
		return release, j.tooLarge()
	}
	body := newPacedBody(w, r, j.idle, j.limit)
	defer body.Close()
	in := &documentReader{ctx: r.Context(), from: hostOf(r), bodies: j, body: body}
	data, err := in.readAll(r.ContentLength)
	if err != nil {
		return in.release, j.explain(body.explain(err))
	}
	return in.release, j.read(data, into)
}

// documentReader reads one body. It takes memory as bytes arrive, not as they are
// announced: at most twice what has arrived, except while one buffer is copied to the next.
type documentReader struct {
	ctx    context.Context
	from   string
	bodies *jsonBodies
	body   *pacedBody
	holder *budget.Holder // nil: as much as is free
	bytes  int64
	large  bool // it is, or says that it will be, over smallBodyBytes
}

// readAll reads to the end. From then on the body has memory for jsonCopies.
func (d *documentReader) readAll(length int64) ([]byte, error) {
	capacity := int64(freeBodyBytes)
	if length >= 0 {
		capacity = min(capacity, length+1) // one more, so that the end is seen without growing
	}
	data := make([]byte, 0, capacity)
	d.large = length > smallBodyBytes
	for {
		for len(data) < cap(data) {
			n, err := d.body.Read(data[len(data):cap(data)])
			data = data[:len(data)+n]
			if err == io.EOF {
				return data, d.hold(jsonCopies * int64(len(data)))
			}
			if err != nil {
				return nil, err
			}
		}
		capacity = 2 * capacity
		if length >= 0 {
			capacity = min(capacity, length+1)
		}
		d.large = d.large || capacity > smallBodyBytes
		if err := d.hold(capacity); err != nil {
			return nil, err
		}
		data = append(make([]byte, 0, capacity), data...)
	}
}

// hold takes what is missing to n bytes. A body that outgrows the share of small ones
// moves into the other.
func (d *documentReader) hold(n int64) error {
	if n <= jsonCopies*freeBodyBytes || n <= d.bytes {
		return nil
	}
	share := d.bodies.small
	if d.large {
		share = d.bodies.large
	}
	if d.holder != nil && d.holder.Of(share) {
		if err := room(d.ctx, d.holder, n-d.bytes); err != nil {
			return err
		}
		d.bytes = n
		return nil
	}
	next := share.Hold(d.from, graceOf(d.bodies.idle), d.body.cutOff)
	if err := room(d.ctx, next, n); err != nil {
		next.Close()
		return err
	}
	d.release()
	d.holder, d.bytes = next, n
	d.body.hold(next)
	return nil
}

func (d *documentReader) release() {
	if d.holder != nil {
		d.body.hold(nil)
		d.holder.Close()
	}
}

func (j *jsonBodies) explain(err error) error {
	if errors.Is(err, kvstore.ErrTooLarge) {
		return j.tooLarge()
	}
	return err
}

// tooLarge is about the document, whose limit is not that of a value.
func (j *jsonBodies) tooLarge() error {
	p := newProblem(http.StatusRequestEntityTooLarge, api.ProblemTooLarge,
		"the JSON body is larger than the limit of %d bytes; nothing was done. Use PUT /key/{key} for larger values", j.limit)
	p.document.LimitBytes = j.limit
	return p
}
