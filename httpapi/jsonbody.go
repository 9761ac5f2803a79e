package httpapi

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// Limits of JSON bodies, in bytes.
const (
	jsonPutBytesMax     = 8 << 20 // POST /key; larger values go by PUT
	jsonClusterBytesMax = 64 << 10
)

// jsonCopies is how often a body may be in memory: as it came, as the decoded
// document, as the value decoded from base64.
const jsonCopies = 3

// jsonBodies reads the JSON bodies of one route. Content types are ignored:
// curl -d sends that of a form.
type jsonBodies struct {
	shape  *shape
	limit  int64 // bytes of one body
	idle   time.Duration
	memory *budget
}

func newJSONBodies[T any](limit int64, idle time.Duration, memory *budget) *jsonBodies {
	return &jsonBodies{shape: shapeOf(reflect.TypeFor[T]()), limit: limit, idle: idle, memory: memory}
}

// fromNodes lets unknown fields through: the other side may be a newer node, which
// an upgrade of one node after the other makes normal.
func (j *jsonBodies) fromNodes() *jsonBodies {
	j.shape.open = true
	return j
}

// decode reads the whole body into a document. release gives the memory back
// and must be called when the document is done with, whatever err is.
func (j *jsonBodies) decode(w http.ResponseWriter, r *http.Request, into any) (release func(), err error) {
	held := int64(0)
	release = func() { j.memory.give(held) }
	if err := refuseEncoded(r.Header); err != nil {
		return release, err
	}
	if r.ContentLength > j.limit {
		return release, j.tooLarge()
	}
	body := newPacedBody(w, r, j.idle, j.limit)
	defer body.Close()
	data, err := j.readAll(body, r.ContentLength, &held)
	if err != nil {
		return release, j.explain(body.explain(err))
	}
	return release, decodeStrict(data, j.shape, into)
}

// readAll reads to the end, reserving memory before it uses it.
func (j *jsonBodies) readAll(body io.Reader, length int64, held *int64) ([]byte, error) {
	capacity := length + 1 // one more, so that the end is seen without growing
	if length < 0 {
		capacity = 4 << 10 // unknown: grow as it comes
	}
	var data []byte
	for {
		need := jsonCopies * capacity
		if !j.memory.take(need - *held) {
			return nil, kvstore.ErrOverloaded
		}
		*held = need
		data = append(make([]byte, 0, capacity), data...)
		for len(data) < cap(data) {
			n, err := body.Read(data[len(data):cap(data)])
			data = data[:len(data)+n]
			if err == io.EOF {
				return data, nil
			}
			if err != nil {
				return nil, err
			}
		}
		capacity *= 2
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
	p := newProblem(http.StatusRequestEntityTooLarge, client.ProblemTooLarge,
		"the JSON body is larger than the limit of %d bytes; nothing was done. PUT /key/{key} takes larger values", j.limit)
	p.document.LimitBytes = j.limit
	return p
}
