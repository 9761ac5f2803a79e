package oncetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// reporter is the part of *testing.T that a property needs. Fatalf ends its goroutine.
type reporter interface {
	Helper()
	Context() context.Context
	Fatalf(format string, args ...any)
}

// trial is one property of one store. Its methods end the property if the store is wrong.
type trial struct {
	reporter
	store  Store
	prefix string // of the property's keys: nobody else has it
}

// can reports whether the store has a capability.
func (t *trial) can(c Capability) bool { return !slices.Contains(t.store.Lacks(), c) }

// put puts a value.
func (t *trial) put(p Put, value string) (Result, error) {
	p.Value = strings.NewReader(value)
	return t.store.Put(t.Context(), p)
}

// create makes a put that must win, and returns its record.
func (t *trial) create(p Put, value string) Record {
	t.Helper()
	result, err := t.put(p, value)
	if err != nil || !result.Created {
		t.Fatalf("put %.90q, which is not set: %+v, %v", p.Key, result, err)
	}
	return t.created(p, value, result)
}

// created checks the record of a key that a put has just set.
func (t *trial) created(p Put, value string, result Result) Record {
	t.Helper()
	record := t.stat(p.Key)
	want := Record{Key: p.Key, Revision: result.Revision, SHA256: digest(value), Size: int64(len(value)),
		ContentType: p.ContentType, Time: record.Time, Meta: p.Meta}
	if want.ContentType == "" {
		want.ContentType = defaultContentType
	}
	if result.Revision == 0 || result.SHA256 != want.SHA256 || result.Size != want.Size {
		t.Fatalf("put %.90q of %d bytes is answered with revision %d, digest %v, size %d", p.Key, len(value), result.Revision, result.SHA256, result.Size)
	}
	if record.Time.IsZero() {
		t.Fatalf("%.90q was put at no time", p.Key)
	}
	t.same(record, want)
	t.holds(want, value)
	return want
}

// unchanged puts the present value.
func (t *trial) unchanged(p Put, value string, winner Record) {
	t.Helper()
	result, err := t.put(p, value)
	if err != nil || result.Created || result != winnerOf(winner) {
		t.Fatalf("put %.90q, which is set: %+v, %v; want %+v", p.Key, result, err, winnerOf(winner))
	}
}

// loses makes a put that must lose.
func (t *trial) loses(p Put, value string, winner Record) {
	t.Helper()
	result, err := t.put(p, value)
	var lost *LostError
	if !errors.As(err, &lost) || !errors.Is(err, api.ErrExists) || errors.Is(err, api.ErrConflict) == p.IfAbsent {
		t.Fatalf("put %.90q of %d bytes, which is set to others: %+v, %v", p.Key, len(value), result, err)
	}
	if lost.Winner != winnerOf(winner) {
		t.Fatalf("put %.90q lost to %+v, the winner is %+v", p.Key, lost.Winner, winnerOf(winner))
	}
}

// fails makes a put that must fail, and checks that it set nothing.
func (t *trial) fails(p Put, value string, want error) {
	t.Helper()
	if result, err := t.put(p, value); !errors.Is(err, want) {
		t.Fatalf("put %.90q: %+v, %v; want: %v", p.Key, result, err, want)
	}
	if checkKey(p.Key) == nil {
		t.absent(p.Key)
	}
}

func digest(value string) Digest { return sha256.Sum256([]byte(value)) }

func winnerOf(r Record) Result {
	return Result{Revision: r.Revision, SHA256: r.SHA256, Size: r.Size}
}

func (t *trial) stat(key string) Record {
	t.Helper()
	record, err := t.store.Stat(t.Context(), key)
	if err != nil {
		t.Fatalf("stat %.90q, which is set: %v", key, err)
	}
	return record
}

// holds checks that a key still has its value and record.
func (t *trial) holds(want Record, value string) {
	t.Helper()
	t.same(t.stat(want.Key), want)
	record, body, err := t.store.Get(t.Context(), want.Key)
	if err != nil {
		t.Fatalf("get %.90q, which is set: %v", want.Key, err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil || string(got) != value {
		t.Fatalf("the value of %.90q has %d bytes, %.20q, and should have %d, %.20q: %v", want.Key, len(got), got, len(value), value, err)
	}
	t.same(record, want)
}

// same compares records.
func (t *trial) same(got, want Record) {
	t.Helper()
	if err := differ(got, want); err != nil {
		t.Fatalf("the record of %.90q has changed: %v", want.Key, err)
	}
}

func differ(got, want Record) error {
	if !got.Time.Equal(want.Time) {
		return fmt.Errorf("its time is %v, and was %v", got.Time, want.Time)
	}
	if len(got.Meta)+len(want.Meta) > 0 && !maps.Equal(got.Meta, want.Meta) {
		return fmt.Errorf("its metadata is %v, and was %v", got.Meta, want.Meta)
	}
	if got.Key != want.Key || got.Revision != want.Revision || got.SHA256 != want.SHA256 || got.Size != want.Size || got.ContentType != want.ContentType {
		return fmt.Errorf("it is %+v, and was %+v", got, want)
	}
	return nil
}

// absent checks that a key is not set.
func (t *trial) absent(key string) {
	t.Helper()
	t.unreadable(key, api.ErrNotFound)
}

// unreadable checks that a get and a stat of a key fail.
func (t *trial) unreadable(key string, want error) {
	t.Helper()
	record, body, err := t.store.Get(t.Context(), key)
	if err == nil {
		body.Close()
	}
	if !errors.Is(err, want) {
		t.Fatalf("get %.90q: %+v, %v; want: %v", key, record, err, want)
	}
	if record, err := t.store.Stat(t.Context(), key); !errors.Is(err, want) {
		t.Fatalf("stat %.90q: %+v, %v; want: %v", key, record, err, want)
	}
}
