package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// framedPutBytes is the largest value of a put that a cache node forwards as a frame.
// Larger ones gain nothing and would keep others waiting.
const framedPutBytes = 32 << 10

// putForwarder sends puts to a database node as frames; *forward.Handler is one.
type putForwarder interface {
	Put(ctx context.Context, put *frame.Put) (forward.PutAnswer, error)
}

// forwardedPuts hands puts on to a database node: small ones as frames, which cost both
// nodes a fraction of a request, and all others as they came. What a client is told is
// the same either way.
type forwardedPuts struct {
	frames putForwarder // nil: none
	next   http.Handler // where all others go
	asIs   handler      // forwards a put as it came
	body   func(w http.ResponseWriter, r *http.Request) *pacedBody
	reads  puts // reads requests, as a database node does
	writes putAnswers
}

func newForwardedPuts(cfg *CacheConfig) *forwardedPuts {
	f := &forwardedPuts{next: cfg.Forward, asIs: forwarder(cfg.Forward, cfg.BodyIdleTimeout), reads: puts{limit: framedPutBytes}}
	f.body = func(w http.ResponseWriter, r *http.Request) *pacedBody {
		return newPacedBody(w, r, cfg.BodyIdleTimeout, bodyUnlimited)
	}
	f.frames, _ = cfg.Forward.(putForwarder)
	return f
}

// at answers a PUT of the key that find finds. What find refuses is for the database node
// to refuse.
func (f *forwardedPuts) at(find finder, keep bool) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, q, err := find(r)
		if err != nil {
			return f.asIs(w, r)
		}
		return f.put(w, r, key, q, keep)
	}
}

func (f *forwardedPuts) put(w http.ResponseWriter, r *http.Request, key kvstore.Key, q parameters, keep bool) error {
	put, fits := f.frameOf(r, key, q)
	if !fits {
		return f.asIs(w, r)
	}
	put.Keep = put.Keep || keep
	r = r.WithContext(r.Context())
	if r.ContentLength > 0 {
		body := f.body(w, r)
		defer body.Close()
		put.Value = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(body, put.Value); err != nil {
			return told(w, r, forward.BrokenBody(err))
		}
		r.Body = io.NopCloser(bytes.NewReader(put.Value))
	}
	answer, err := f.frames.Put(r.Context(), &put)
	var unanswered http.Handler
	switch {
	case err == nil:
		return f.answer(w, &put, &answer)
	case errors.As(err, &unanswered):
		return told(w, r, unanswered)
	}
	handOn(f.next, w, r) // its body was read: the connection is net/http's, which listens for the client's going away
	return nil
}

// told answers as when a request was forwarded in vain.
func told(w http.ResponseWriter, r *http.Request, answer http.Handler) error {
	requestID(w)
	answer.ServeHTTP(w, r)
	return nil
}

// frameOf returns a put as a frame, without its value. It is false for one that does
// not fit, or that the database node would refuse or judge otherwise.
func (f *forwardedPuts) frameOf(r *http.Request, key kvstore.Key, q parameters) (put frame.Put, fits bool) {
	if f.frames == nil || r.ContentLength < 0 || r.ContentLength > framedPutBytes || r.Header.Get("Expect") != "" {
		return put, false
	}
	c, err := conditionsOf(r, q)
	if err != nil || c.ifMatch.given || c.ifNoneMatch.given && !c.ifNoneMatch.any {
		return put, false
	}
	request, err := f.reads.requestOf(r, key, c)
	if err != nil || !frame.PutFits(string(key), request.ContentType, c.putID, r.ContentLength) {
		return put, false
	}
	put = frame.Put{Key: string(key), IfAbsent: c.ifNoneMatch.given, Keep: c.keep, PutID: c.putID, ContentType: request.ContentType, Meta: request.UserMeta.Map()}
	if request.SHA256 != nil {
		put.HasDigest, put.Digest = true, *request.SHA256
	}
	if put.IfAbsent && put.PutID == "" { // so that a repeat is not told that it lost to itself
		put.PutID = client.NewPutID()
	}
	return put, frame.MetaFits(put.Meta)
}

// answer answers as a database node answers a PUT.
func (f *forwardedPuts) answer(w http.ResponseWriter, put *frame.Put, a *forward.PutAnswer) error {
	requestID(w) // as a request that was forwarded
	if a.History != "" {
		w.Header()[api.HeaderHistory] = []string{a.History}
	}
	if a.Problem != nil {
		problemIn(a.Problem).write(w)
		return nil
	}
	winner := metaIn(&a.Set.Winner)
	return f.writes.write(w, &putAnswer{key: kvstore.Key(put.Key), winner: &winner, created: a.Set.Created,
		tagged: a.Set.Created || !put.Keep || winner.SHA256 == sha256.Sum256(put.Value)})
}

// problemIn is the problem that a frame carries.
func problemIn(f *frame.Problem) *problem {
	p := &problem{document: api.Problem{Type: f.Type, Title: f.Title, Status: int(f.Status), Detail: f.Detail}}
	if f.HasWinner {
		winner := metaIn(&f.Winner)
		return p.ofWinner(&winner)
	}
	return p
}

func metaIn(w *frame.Winner) kvstore.Meta {
	return kvstore.Meta{Revision: kvstore.Revision(w.Revision), Size: int64(w.Size), SHA256: w.Digest}
}
