package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// puts answers everything that sets a key. What is refused is refused before DB.Put: a
// put cannot be undone.
type puts struct {
	db        DB
	from      Reader // for If-Match
	counters  *Counters
	limit     int64         // bytes of a value
	idle      time.Duration // of a body
	answer    time.Duration // from the end of a body
	documents *jsonBodies   // of POST /key
	answers   putAnswers
}

// put answers PUT /key/{key}.
func (p *puts) put(w http.ResponseWriter, r *http.Request, key kvstore.Key, q parameters) error {
	c, err := conditionsOf(r, q)
	if err != nil {
		return err
	}
	return p.putOn(w, r, key, c)
}

// keep answers PUT /keep/{key}: another value that is there already is no error.
func (p *puts) keep(w http.ResponseWriter, r *http.Request, key kvstore.Key, q parameters) error {
	c, err := conditionsOf(r, q)
	if err != nil {
		return err
	}
	c.keep = true
	return p.putOn(w, r, key, c)
}

func (p *puts) putOn(w http.ResponseWriter, r *http.Request, key kvstore.Key, c conditions) error {
	request, err := p.requestOf(r, key, c)
	if err != nil {
		return err
	}
	if err := p.mayMatch(r.Context(), key, c); err != nil {
		return err
	}
	body := newPacedBody(w, r, p.idle, p.limit)
	ctx, stop := body.watch(r.Context(), p.answer)
	defer stop()
	request.Body = body
	if r.ContentLength < 0 || r.ContentLength > freeBodyBytes { // others need not give way
		request.From, request.Interrupt = hostOf(r), body.cutOff
	}
	result, err := p.db.Put(ctx, request)
	if err != nil {
		return body.explain(err)
	}
	return p.decided(w, key, result, c, "")
}

// requestOf checks the headers that describe the body of a PUT.
func (p *puts) requestOf(r *http.Request, key kvstore.Key, c conditions) (kvstore.PutRequest, error) {
	request := kvstore.PutRequest{Key: key, PutID: c.putID, Size: r.ContentLength}
	if err := refuseUnframed(r); err != nil {
		return request, err
	}
	if err := refuseLarge(r, p.limit); err != nil {
		return request, err
	}
	if part := r.Header.Get("Content-Range"); part != "" {
		return request, invalid("the body is only a part of a value (Content-Range: %s), but a key is set once, to the whole value; send all of it, without Content-Range", part)
	}
	if err := refuseEncoded(r.Header); err != nil {
		return request, err
	}
	var err error
	if request.ContentType, err = contentTypeOf(r.Header); err != nil {
		return request, err
	}
	if request.UserMeta, err = userMetaOf(r.Header); err != nil {
		return request, err
	}
	request.SHA256, err = expectedDigest(r.Header)
	return request, err
}

// mayMatch answers a false If-Match before anything is proposed. A true one
// stays true: what is set never changes.
func (p *puts) mayMatch(ctx context.Context, key kvstore.Key, c conditions) error {
	if !c.ifMatch.given {
		return nil
	}
	v, _, err := p.from.Get(ctx, key, kvstore.Linearizable)
	switch {
	case errors.Is(err, kvstore.ErrNotFound):
		return newProblem(http.StatusPreconditionFailed, api.ProblemPrecondition, "If-Match is false: key %q is not set; nothing was done", string(key))
	case err != nil:
		// Definite, whatever it is: nothing was proposed. So not p.db's errors.
		return problemFor(reading, err)
	case !c.ifMatch.strong(etagOf(v.SHA256)):
		return newProblem(http.StatusPreconditionFailed, api.ProblemPrecondition, "If-Match is false: key %q is set to other bytes %s, and cannot be changed", string(key), since(&v.Meta)).ofWinner(&v.Meta)
	}
	return nil
}

// judge says whether a put with this result won, or what it lost by. Only here
// does If-None-Match count: judged by the outcome it cannot race with another
// put.
func (p *puts) judge(key kvstore.Key, result *kvstore.PutResult, c *conditions) (created bool, err error) {
	p.count(result.Outcome)
	winner := &result.Meta
	created = result.Outcome == kvstore.Created
	switch {
	case !created && c.ifNoneMatch.given && c.ifNoneMatch.weak(etagOf(winner.SHA256)):
		return false, newProblem(http.StatusPreconditionFailed, api.ProblemPrecondition,
			"If-None-Match is false: key %q is set %s", string(key), since(winner)).ofWinner(winner)
	case result.Outcome == kvstore.Conflict && !c.keep:
		return false, newProblem(http.StatusConflict, api.ProblemConflict,
			"key %q is set to other bytes %s, and cannot be changed; choose another key", string(key), since(winner)).ofWinner(winner)
	}
	return created, nil
}

// since says in a sentence which put won, and what it set.
func since(winner *kvstore.Meta) string {
	unit := "bytes"
	if winner.Size == 1 {
		unit = "byte"
	}
	return fmt.Sprintf("since revision %d (%d %s, sha256 %s)", winner.Revision, winner.Size, unit, winner.SHA256)
}

// decided answers a put from its result.
func (p *puts) decided(w http.ResponseWriter, key kvstore.Key, result kvstore.PutResult, c conditions, location string) error {
	created, err := p.judge(key, &result, &c)
	if err != nil {
		return err
	}
	a := putAnswer{key: key, winner: &result.Meta, created: created, tagged: result.Outcome != kvstore.Conflict}
	if created {
		a.location = location
	}
	return p.answers.write(w, &a)
}

func (p *puts) count(outcome kvstore.Outcome) {
	p.counters.Puts.Add(1)
	switch outcome {
	case kvstore.Created:
		p.counters.Created.Add(1)
	case kvstore.Unchanged:
		p.counters.Unchanged.Add(1)
	case kvstore.Conflict:
		p.counters.Conflicts.Add(1)
	}
}
