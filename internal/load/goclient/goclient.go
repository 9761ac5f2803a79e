// Package goclient sends the requests of package load through the Go client, like a program
// that uses it: with its retries, put ids and digests. It measures how long a Put or Get
// takes, with all its tries.
//
// Callers may share one client, which is safe for concurrent use. A caller itself belongs to
// one goroutine.
package goclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/load"
)

// Caller is a load.Caller.
type Caller struct {
	client *client.Client
	value  bytes.Buffer
}

// New returns a caller that uses c.
func New(c *client.Client) *Caller { return &Caller{client: c} }

// Close does nothing: the client needs no closing.
func (c *Caller) Close() error { return nil }

// Call executes r.
func (c *Caller) Call(ctx context.Context, r *load.Request, t *load.Tally) error {
	var err error
	switch r.Kind {
	case load.Put:
		err = c.put(ctx, r, t)
	case load.Batch:
		err = c.batch(ctx, r, t)
	default:
		err = c.get(ctx, r, t)
	}
	if err != nil {
		return failure(err)
	}
	return nil
}

func (c *Caller) put(ctx context.Context, r *load.Request, t *load.Tally) error {
	answer, err := c.client.PutBytes(ctx, r.Key, r.Value, client.PutOptions{})
	switch {
	case errors.Is(err, api.ErrConflict):
		t[load.Conflict]++
	case err != nil:
		return err
	case answer.Created:
		t[load.Created]++
	default:
		t[load.Unchanged]++
	}
	return nil
}

func (c *Caller) get(ctx context.Context, r *load.Request, t *load.Tally) error {
	obj, err := c.client.Get(ctx, r.Key, client.GetOptions{})
	if r.Kind == load.Absent && errors.Is(err, api.ErrNotFound) {
		t[load.NotFound]++
		return nil
	}
	if err != nil {
		return err
	}
	c.value.Reset()
	_, err = io.Copy(&c.value, obj.Body)
	if err := errors.Join(err, obj.Body.Close()); err != nil {
		return err
	}
	t[load.Found]++
	if r.Kind == load.Get && !bytes.Equal(c.value.Bytes(), r.Value) {
		return load.ErrWrongValue
	}
	return nil
}

func (c *Caller) batch(ctx context.Context, r *load.Request, t *load.Tally) error {
	var failed error
	for result, err := range c.client.PutAll(ctx, puts(r.Items)) {
		if err != nil {
			return err
		}
		switch result.Status {
		case api.BatchCreated:
			t[load.Created]++
		case api.BatchUnchanged:
			t[load.Unchanged]++
		case api.BatchConflict:
			t[load.Conflict]++
		default:
			failed = result.Err
		}
	}
	return failed
}

func puts(items []load.Item) iter.Seq[client.PutItem] {
	return func(yield func(client.PutItem) bool) {
		for _, i := range items {
			if !yield(client.PutItem{Key: i.Key, Value: i.Value}) {
				return
			}
		}
	}
}

// kindsOfErrors are the errors that are counted apart.
var kindsOfErrors = []struct {
	is   error
	kind string
}{
	{api.ErrOutcomeUnknown, "outcome unknown"},
	{api.ErrOverloaded, "overloaded"},
	{api.ErrUnavailable, "unavailable"},
	{api.ErrNotFound, "not found"},
	{api.ErrDiskReserve, "disk reserve"},
	{api.ErrDigestMismatch, "wrong value"},
	{api.ErrTooLarge, "too large"},
	{api.ErrInvalid, "invalid"},
}

func failure(err error) error {
	var known *load.Failure
	if errors.As(err, &known) {
		return err
	}
	for _, k := range kindsOfErrors {
		if errors.Is(err, k.is) {
			return &load.Failure{Kind: k.kind, Err: err}
		}
	}
	return &load.Failure{Kind: "other", Err: err}
}
