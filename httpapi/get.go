package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// reads answers GET and HEAD of keys.
type reads struct {
	from     Reader
	headers  *valueHeaders
	names    *identity // nil: of a node that holds no history
	stands   *identity // of a cache node, which may leave a history with all that it held; nil of others
	counters *Counters
	logger   *slog.Logger
	idle     time.Duration
	memory   *budget.Budget // of values as JSON
	values   *budget.Budget // of values on their way
	buffers  sync.Pool      // of *[copyBytes]byte, to copy values with
}

// get answers GET and HEAD of a key.
func (g *reads) get(w http.ResponseWriter, r *http.Request, key kvstore.Key, q parameters) error {
	asJSON, err := q.word("format", "json")
	if err != nil {
		return err
	}
	consistency, err := consistencyOf(q)
	if err != nil {
		return err
	}
	v, source, err := g.find(w, r, key, consistency)
	if err != nil {
		return g.failed(key, err)
	}
	g.counters.Gets.Add(1)
	if asJSON {
		return g.serveJSON(w, r, v, source)
	}
	return g.serveRaw(w, r, v, source)
}

// find gets a value. A cache node names the history that the value is of, or that has
// no such key: it never comes back to a history, so what was found between two looks at
// the same one is of that one.
func (g *reads) find(w http.ResponseWriter, r *http.Request, key kvstore.Key, c kvstore.Consistency) (*kvstore.Value, string, error) {
	if g.stands == nil {
		return g.from.Get(r.Context(), key, c)
	}
	for {
		named := g.stands.now()
		v, source, err := g.from.Get(r.Context(), key, c)
		if g.stands.now().id == named.id {
			if named.header != nil {
				w.Header()[api.HeaderHistory] = named.header
			}
			return v, source, err
		}
		if ctx := r.Context(); ctx.Err() != nil {
			return nil, "", context.Cause(ctx)
		}
	}
}

// failed makes the error of a read. Absence may end at any moment, so no HTTP
// cache may keep it; some keep a 404 unless they are told.
func (g *reads) failed(key kvstore.Key, err error) error {
	if !errors.Is(err, kvstore.ErrNotFound) {
		return err
	}
	g.counters.Gets.Add(1)
	g.counters.Absences.Add(1)
	return newProblem(http.StatusNotFound, api.ProblemNotFound, "key %q is not set", string(key))
}

// serveRaw answers with the value's own bytes.
func (g *reads) serveRaw(w http.ResponseWriter, r *http.Request, v *kvstore.Value, source string) error {
	held := heldBytes(r, v.Size)
	if held == 0 {
		return g.serveValue(w, r, v, source)
	}
	paced := newPacedWriter(w, g.idle)
	release, err := paced.hold(r, g.values, held)
	defer release()
	if err != nil {
		return err
	}
	return g.serveValue(paced, r, v, source)
}

// serveValue is serveRaw for a value whose memory is taken care of. w is a
// pacedWriter if it takes any.
func (g *reads) serveValue(w http.ResponseWriter, r *http.Request, v *kvstore.Value, source string) error {
	h := w.Header()
	g.headers.setRaw(h, &v.Meta)
	g.headers.setSource(h, source)
	bytes, inline := v.Bytes()
	if !conditional(r) && (inline || r.Method == http.MethodHead) {
		serveWhole(w, r, bytes)
		return nil
	}
	delete(h, "Content-Length") // up to the range
	paced, ok := w.(*pacedWriter)
	if !ok {
		paced = newPacedWriter(w, g.idle)
	}
	return g.serveContent(paced, r, v, inline)
}

// heldBytes is the memory a value takes for as long as its reader takes to
// read it: all of a value that is stored in one piece, one chunk of another.
// What fits the socket's buffer is not waited for and does not count.
func heldBytes(r *http.Request, size int64) int64 {
	if r.Method == http.MethodHead || size <= pieceBytes/2 {
		return 0
	}
	return min(size, kvstore.ChunkBytes)
}

// serveWhole is the short way: no condition, no range, the bytes at hand. What fits
// the socket's buffer needs no deadline to be over with.
func serveWhole(w http.ResponseWriter, r *http.Request, bytes []byte) {
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(bytes) // an error here is the client's going away
	}
}

// conditional reports whether a header asks for anything but the whole value.
func conditional(r *http.Request) bool {
	h := r.Header
	if r.Method != http.MethodHead && (len(h["Range"]) > 0 || len(h["If-Range"]) > 0) {
		return true
	}
	return len(h["If-None-Match"]) > 0 || len(h["If-Modified-Since"]) > 0 ||
		len(h["If-Match"]) > 0 || len(h["If-Unmodified-Since"]) > 0
}

// serveContent is the long way, by the rules of http.ServeContent, with its
// plain-text errors turned into problems.
func (g *reads) serveContent(w *pacedWriter, r *http.Request, v *kvstore.Value, inline bool) error {
	ctx, cancel := context.WithCancel(r.Context())
	from := newContent(ctx, v)
	defer from.Close()
	defer cancel() // first, so that Close need not wait for a read

	out := g.contentWriter(w, r)
	if !inline {
		out.content = from
	}
	http.ServeContent(out, withUsableRange(r, v.Size), "", v.Time, from)
	switch {
	case out.err != nil:
		return fmt.Errorf("read key %q: %w", string(v.Key), out.err)
	case out.refused != 0:
		return refusedProblem(out.refused, w.Header().Get("Content-Range"), v.Size)
	case from.failure() != nil:
		g.abort(w, r, v, from.failure())
	}
	return nil
}

// abort breaks the connection off, so that no client takes the bytes that
// were sent for the value.
func (g *reads) abort(w http.ResponseWriter, r *http.Request, v *kvstore.Value, err error) {
	if r.Context().Err() == nil { // else the client went away
		g.counters.Errors.Add(1)
		g.logger.Error("a value became unreadable while it was sent; the connection was closed",
			"key", string(v.Key), "revision", uint64(v.Revision), "request", requestID(w), "err", err)
	}
	panic(http.ErrAbortHandler)
}

// refusedProblem is the document for a status http.ServeContent wanted to send.
func refusedProblem(status int, contentRange string, size int64) error {
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		p := newProblem(status, api.ProblemRange, "the range does not fit the value, which has %d bytes", size)
		if contentRange != "" {
			p.with("Content-Range", contentRange)
		}
		return p
	case http.StatusPreconditionFailed:
		return newProblem(status, api.ProblemPrecondition, "If-Match or If-Unmodified-Since is false for this value, which never changes")
	}
	return newProblem(status, api.ProblemInternal, "%s", detailInternal(reading))
}

func (g *reads) contentWriter(w *pacedWriter, r *http.Request) *contentWriter {
	return &contentWriter{pacedWriter: w, hasBody: r.Method != http.MethodHead, buffers: &g.buffers}
}

// jsonValueBytesMax is the largest value that ?format=json answers; it is
// held in memory, several times.
const jsonValueBytesMax = 4 << 20

// serveJSON answers with the value inside a document. The document is another
// representation than the bytes: its ETag is its own SHA-256, and Repr-Digest,
// which would be taken for the value's, is left out.
func (g *reads) serveJSON(w http.ResponseWriter, r *http.Request, v *kvstore.Value, source string) error {
	if v.Size > jsonValueBytesMax {
		return invalid("the value has %d bytes and ?format=json answers values up to %d; read it without format=json", v.Size, jsonValueBytesMax)
	}
	need := jsonCopies * (v.Size + 1<<10)
	paced := newPacedWriter(w, g.idle)
	release, err := paced.hold(r, g.memory, need)
	defer release()
	if err != nil {
		return err
	}
	document, err := documentOf(r, v)
	if err != nil {
		return err
	}
	paced.held.Keep(int64(len(document)))
	h := w.Header()
	g.headers.setShared(h, v.Key)
	g.headers.setSource(h, source)
	sum := sha256.Sum256(document)
	h.Set("Etag", `"`+hex.EncodeToString(sum[:])+`"`)
	h.Set("Content-Type", contentTypeJSON)
	h.Set(api.HeaderRevision, strconv.FormatUint(uint64(v.Revision), 10))

	out := g.contentWriter(paced, r)
	http.ServeContent(out, withUsableRange(r, int64(len(document))), "", v.Time, bytes.NewReader(document))
	if out.refused != 0 {
		return refusedProblem(out.refused, h.Get("Content-Range"), int64(len(document)))
	}
	return nil
}

// documentOf renders a value as JSON. The same value gives the same bytes on
// every node.
func documentOf(r *http.Request, v *kvstore.Value) ([]byte, error) {
	raw, err := wholeOf(r, v)
	if err != nil {
		return nil, err
	}
	at := v.Time.UTC()
	document := api.Document{Record: recordOf(&v.Meta)}
	document.Time = &at
	document.Value, document.Encoding = textOf(raw)
	return marshal(&document)
}

// wholeOf returns all bytes of a value.
func wholeOf(r *http.Request, v *kvstore.Value) ([]byte, error) {
	if raw, inline := v.Bytes(); inline {
		return raw, nil
	}
	from := v.Open(r.Context())
	defer from.Close()
	raw := make([]byte, v.Size)
	if _, err := io.ReadFull(from, raw); err != nil {
		return nil, fmt.Errorf("read key %q: %w", string(v.Key), err)
	}
	return raw, nil
}
