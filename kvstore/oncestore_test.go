package kvstore_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/oncetest"
	"github.com/Focinfi/oncekv/kvstore"
)

// The database passes the suite of all stores: above a log of one node, with a store in
// files that commits and flushes in the background.
func TestDB_SetsOnce(t *testing.T) {
	t.Parallel()
	store, err := kvstore.OpenStoreDir(t.TempDir(), kvstore.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, store.Close()); err != nil {
			t.Error(err)
		}
	})
	db := onceDB{kvstore.NewDB(store, &oneNode{store: store}, kvstore.DBConfig{})}
	oncetest.Run(t, func(*testing.T) oncetest.Store { return db })
}

// onceDB is a DB as a store of the suite. Strict and keeping puts are the API's: it
// makes them of the outcome.
type onceDB struct{ db *kvstore.DB }

func (onceDB) Lacks() []oncetest.Capability {
	return []oncetest.Capability{oncetest.IfAbsent, oncetest.Keep}
}

// kindOf gives an error the kind that the API would.
func kindOf(err error) error {
	for own, kind := range map[error]error{
		kvstore.ErrNotFound: api.ErrNotFound, kvstore.ErrInvalidKey: api.ErrInvalid, kvstore.ErrInvalidContentType: api.ErrInvalid,
		kvstore.ErrInvalidPutID: api.ErrInvalid, kvstore.ErrInvalidMeta: api.ErrInvalid, kvstore.ErrDigestMismatch: api.ErrDigestMismatch,
	} {
		if errors.Is(err, own) {
			return errors.Join(kind, err)
		}
	}
	return err
}

func (s onceDB) Put(ctx context.Context, p oncetest.Put) (oncetest.Result, error) {
	if p.IfAbsent || p.Keep {
		return oncetest.Result{}, errors.ErrUnsupported
	}
	meta, err := kvstore.MakeUserMeta(p.Meta)
	if err != nil {
		return oncetest.Result{}, kindOf(err)
	}
	r, err := s.db.Put(ctx, kvstore.PutRequest{Key: kvstore.Key(p.Key), ContentType: p.ContentType, PutID: p.PutID,
		Body: p.Value, Size: -1, SHA256: (*kvstore.Digest)(p.SHA256), UserMeta: meta})
	if err != nil {
		return oncetest.Result{}, kindOf(err)
	}
	result := oncetest.Result{Created: r.Outcome == kvstore.Created, Revision: uint64(r.Meta.Revision), SHA256: oncetest.Digest(r.Meta.SHA256), Size: r.Meta.Size}
	if r.Outcome == kvstore.Conflict {
		return oncetest.Result{}, &oncetest.LostError{Winner: result}
	}
	return result, nil
}

func (s onceDB) Get(ctx context.Context, key string) (oncetest.Record, io.ReadCloser, error) {
	value, err := s.db.Get(ctx, kvstore.Key(key), kvstore.Linearizable)
	if err != nil {
		return oncetest.Record{}, nil, kindOf(err)
	}
	return onceRecord(value.Meta), value.Open(ctx), nil
}

func (s onceDB) Stat(ctx context.Context, key string) (oncetest.Record, error) {
	record, body, err := s.Get(ctx, key)
	if err != nil {
		return record, err
	}
	return record, body.Close()
}

func (s onceDB) List(ctx context.Context, r oncetest.ListRange) iter.Seq2[oncetest.Record, error] {
	limit := r.Page
	if limit == 0 {
		limit = 1000
	}
	return func(yield func(oncetest.Record, error) bool) {
		ask := kvstore.KeysRequest{Prefix: kvstore.Key(r.Prefix), After: kvstore.Key(r.After), Limit: limit, LimitBytes: 1 << 20}
		for more := true; more; {
			page, err := s.db.Keys(ctx, ask, kvstore.Linearizable)
			if err != nil {
				yield(oncetest.Record{}, kindOf(err))
				return
			}
			for _, m := range page.Keys {
				if ask.After = m.Key; !yield(onceRecord(m), nil) {
					return
				}
			}
			more = page.More
		}
	}
}

func (s onceDB) Changes(ctx context.Context, since uint64, prefix string) iter.Seq2[oncetest.Record, error] {
	return func(yield func(oncetest.Record, error) bool) {
		ask := kvstore.ChangesRequest{After: kvstore.Revision(since), Prefix: kvstore.Key(prefix), Limit: 10, LimitBytes: 1 << 20}
		for more := true; more; {
			part, err := s.db.Changes(ctx, ask, kvstore.Linearizable)
			if err != nil {
				yield(oncetest.Record{}, kindOf(err))
				return
			}
			for _, c := range part.Records {
				if !yield(onceRecord(c.Meta), nil) {
					return
				}
			}
			ask.After, more = part.Scanned, part.Scanned < part.Newest
		}
	}
}

func onceRecord(m kvstore.Meta) oncetest.Record {
	return oncetest.Record{Key: string(m.Key), Revision: uint64(m.Revision), SHA256: oncetest.Digest(m.SHA256), Size: m.Size,
		ContentType: m.ContentType, Time: m.Time, Meta: m.UserMeta.Map()}
}
