package oncetest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/Focinfi/oncekv/client"
)

// OfClient makes a Store of a client, whatever nodes it uses.
func OfClient(c *client.Client) Store { return clientStore{c} }

type clientStore struct{ client *client.Client }

func (s clientStore) Lacks() []Capability { return nil }

func (s clientStore) Put(ctx context.Context, p Put) (Result, error) {
	if p.Value == nil {
		p.Value = bytes.NewReader(nil)
	}
	answer, err := s.client.Put(ctx, p.Key, p.Value, client.PutOptions{
		ContentType: p.ContentType, Meta: p.Meta, PutID: p.PutID, IfAbsent: p.IfAbsent, KeepExisting: p.Keep, SHA256: (*[32]byte)(p.SHA256),
	})
	var lost *client.ConflictError
	if errors.As(err, &lost) {
		winner, err := resultOf(lost.Revision, lost.SHA256, lost.Size)
		return Result{}, errors.Join(&LostError{Winner: winner, Strict: !errors.Is(lost, client.ErrConflict)}, err)
	}
	if err != nil {
		return Result{}, err
	}
	result, err := resultOf(answer.Revision, answer.SHA256, answer.Size)
	result.Created = answer.Created
	return result, err
}

func (s clientStore) Get(ctx context.Context, key string) (Record, io.ReadCloser, error) {
	object, err := s.client.Get(ctx, key, client.GetOptions{})
	if err != nil {
		return Record{}, nil, err
	}
	record, err := recordOf(object.Record)
	return record, object.Body, err
}

func (s clientStore) Stat(ctx context.Context, key string) (Record, error) {
	record, err := s.client.Stat(ctx, key, client.GetOptions{})
	if err != nil {
		return Record{}, err
	}
	return recordOf(record)
}

func (s clientStore) List(ctx context.Context, r ListRange) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for listed, err := range s.client.Keys(ctx, client.KeysOptions{Prefix: r.Prefix, After: r.After, PageLimit: r.Page}) {
			record, wrong := recordOf(listed)
			if !yield(record, errors.Join(err, wrong)) {
				return
			}
		}
	}
}

func (s clientStore) Changes(ctx context.Context, since uint64, prefix string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for change, err := range s.client.Changes(ctx, client.ChangesOptions{Since: since, Prefix: prefix}) {
			record, wrong := recordOf(change.Record)
			if !yield(record, errors.Join(err, wrong)) {
				return
			}
		}
	}
}

func resultOf(revision uint64, digest string, size int64) (Result, error) {
	sum, err := digestOf(digest)
	return Result{Revision: revision, SHA256: sum, Size: size}, err
}

// recordOf converts a record. An empty one comes with its own error.
func recordOf(r client.Record) (Record, error) {
	key, err := r.RawKey()
	if err != nil || r.SHA256 == "" {
		return Record{}, err
	}
	record := Record{Key: key, Revision: r.Revision, Size: r.Size, ContentType: r.ContentType, Meta: r.Meta}
	if r.Time != nil {
		record.Time = *r.Time
	}
	record.SHA256, err = digestOf(r.SHA256)
	return record, err
}

func digestOf(text string) (sum Digest, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(sum) {
		return sum, fmt.Errorf("%q is no SHA-256 in hex", text)
	}
	return Digest(raw), nil
}
