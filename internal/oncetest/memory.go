package oncetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"maps"
	"mime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// Memory is a Store in memory with one lock. The zero value is empty and ready.
type Memory struct {
	mu      sync.Mutex
	set     map[string]*entry
	history []*entry // of revision i+1 at i
}

// entry is a key that is set. It is immutable.
type entry struct {
	Record
	putID string
	value []byte
}

// Lacks returns nil.
func (m *Memory) Lacks() []Capability { return nil }

// Put implements Store.
func (m *Memory) Put(_ context.Context, p Put) (Result, error) {
	if err := checkPut(p); err != nil {
		return Result{}, err
	}
	var value []byte
	if p.Value != nil {
		var err error
		if value, err = io.ReadAll(p.Value); err != nil {
			return Result{}, err
		}
	}
	sum := Digest(sha256.Sum256(value))
	if p.SHA256 != nil && *p.SHA256 != sum {
		return Result{}, api.ErrDigestMismatch
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	won, set := m.set[p.Key]
	if !set {
		won = &entry{putID: p.PutID, value: value, Record: Record{
			Key: p.Key, Revision: uint64(len(m.history) + 1), SHA256: sum, Size: int64(len(value)),
			ContentType: p.ContentType, Time: time.Now().UTC(), Meta: maps.Clone(p.Meta),
		}}
		if p.ContentType == "" {
			won.ContentType = defaultContentType
		}
		if m.set == nil {
			m.set = make(map[string]*entry)
		}
		m.set[p.Key], m.history = won, append(m.history, won)
	}
	result := Result{Revision: won.Revision, SHA256: won.SHA256, Size: won.Size}
	result.Created = !set || won.SHA256 == sum && p.PutID != "" && p.PutID == won.putID
	if !result.Created && (p.IfAbsent || !p.Keep && won.SHA256 != sum) {
		return Result{}, &LostError{Winner: result, Strict: p.IfAbsent}
	}
	return result, nil
}

// Get implements Store.
func (m *Memory) Get(_ context.Context, key string) (Record, io.ReadCloser, error) {
	if err := checkKey(key); err != nil {
		return Record{}, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, set := m.set[key]
	if !set {
		return Record{}, nil, api.ErrNotFound
	}
	return e.Record, io.NopCloser(bytes.NewReader(e.value)), nil
}

// Stat implements Store.
func (m *Memory) Stat(ctx context.Context, key string) (Record, error) {
	record, _, err := m.Get(ctx, key)
	return record, err
}

// List implements Store.
func (m *Memory) List(_ context.Context, r ListRange) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		m.mu.Lock()
		all := slices.SortedFunc(maps.Values(m.set), func(a, b *entry) int { return strings.Compare(a.Key, b.Key) })
		m.mu.Unlock()
		for _, e := range all {
			if e.Key > r.After && strings.HasPrefix(e.Key, r.Prefix) && !yield(e.Record, nil) {
				return
			}
		}
	}
}

// Changes implements Store.
func (m *Memory) Changes(_ context.Context, since uint64, prefix string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		m.mu.Lock()
		all := slices.Clone(m.history)
		m.mu.Unlock()
		for _, e := range all {
			if e.Revision > since && strings.HasPrefix(e.Key, prefix) && !yield(e.Record, nil) {
				return
			}
		}
	}
}

// The limits of a put, as in docs/limits.md.
const (
	defaultContentType  = "application/octet-stream"
	keyBytesMax         = 1024
	contentTypeBytesMax = 255
	putIDBytesMax       = 64
	metaNamesMax        = 64
	metaNameBytesMax    = 64
	metaBytesMax        = 2 << 10
	metaNameCharacters  = "abcdefghijklmnopqrstuvwxyz0123456789-"
	visibleFirst        = '!' // of ASCII
	visibleLast         = '~'
)

func checkKey(key string) error {
	if key == "" || len(key) > keyBytesMax || strings.Contains(key, "\x00") {
		return fmt.Errorf("%w: the key %.40q: a key has 1 to %d bytes, none of them NUL", api.ErrInvalid, key, keyBytesMax)
	}
	return nil
}

// within reports whether text consists of visible ASCII characters, from first on.
func within(text string, first rune) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < first || r > visibleLast })
}

func checkPut(p Put) error {
	if err := checkKey(p.Key); err != nil {
		return err
	}
	if _, _, err := mime.ParseMediaType(p.ContentType); p.ContentType != "" && (err != nil || len(p.ContentType) > contentTypeBytesMax || !within(p.ContentType, ' ')) {
		return fmt.Errorf("%w: the content type %.40q", api.ErrInvalid, p.ContentType)
	}
	if len(p.PutID) > putIDBytesMax || !within(p.PutID, visibleFirst) {
		return fmt.Errorf("%w: the put id %.40q", api.ErrInvalid, p.PutID)
	}
	bytes := 0
	for name, value := range p.Meta {
		bytes += len(name) + len(value)
		if name == "" || len(name) > metaNameBytesMax || strings.Trim(name, metaNameCharacters) != "" || !within(value, ' ') || strings.TrimSpace(value) != value {
			return fmt.Errorf("%w: the metadata %.40q: %.40q", api.ErrInvalid, name, value)
		}
	}
	if len(p.Meta) > metaNamesMax || bytes > metaBytesMax {
		return fmt.Errorf("%w: %d names and %d bytes of metadata", api.ErrInvalid, len(p.Meta), bytes)
	}
	return nil
}
