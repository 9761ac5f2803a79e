package oncetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"iter"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// bent is a Memory with a defect.
type bent struct {
	Memory
	lacks   []Capability
	refused Capability // what it answers with errors.ErrUnsupported

	key     func(string) string                                      // changes every key
	put     func(p Put, value []byte) (Result, error)                // instead of Memory's
	answer  func(p Put, r Result, err error) (Result, error)         // changes the answer
	record  func(*Record)                                            // changes what a get or a stat says
	value   func(key string, value []byte) []byte                    // changes what a get brings
	get     func(key string) error                                   // fails it
	list    func(r ListRange, all []Record) []Record                 // of all keys in order
	changes func(since uint64, prefix string, all []Record) []Record // of all records in order
}

func (b *bent) Lacks() []Capability { return b.lacks }

// plain is Memory.Put.
func (b *bent) plain(p Put, value []byte) (Result, error) {
	p.Value = bytes.NewReader(value)
	return b.Memory.Put(context.Background(), p)
}

func (b *bent) Put(_ context.Context, p Put) (Result, error) {
	if b.refused == IfAbsent && p.IfAbsent || b.refused == Keep && p.Keep {
		return Result{}, errors.ErrUnsupported
	}
	value, err := io.ReadAll(p.Value)
	if err != nil {
		return Result{}, err
	}
	if b.key != nil {
		p.Key = b.key(p.Key)
	}
	put := b.plain
	if b.put != nil {
		put = b.put
	}
	result, err := put(p, value)
	if b.answer != nil {
		return b.answer(p, result, err)
	}
	return result, err
}

func (b *bent) Get(ctx context.Context, key string) (Record, io.ReadCloser, error) {
	if b.get != nil {
		if err := b.get(key); err != nil {
			return Record{}, nil, err
		}
	}
	real := key
	if b.key != nil {
		real = b.key(key)
	}
	record, body, err := b.Memory.Get(ctx, real)
	if err != nil {
		return record, body, err
	}
	record.Key = key
	if b.record != nil {
		b.record(&record)
	}
	if b.value != nil {
		value, err := io.ReadAll(body)
		return record, io.NopCloser(bytes.NewReader(b.value(key, value))), err
	}
	return record, body, nil
}

func (b *bent) Stat(ctx context.Context, key string) (Record, error) {
	record, _, err := b.Get(ctx, key)
	return record, err
}

func all(of iter.Seq2[Record, error]) (records []Record) {
	for r := range of {
		records = append(records, r)
	}
	return records
}

func walkOf(records []Record, refused bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if refused {
			yield(Record{}, errors.ErrUnsupported)
			return
		}
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (b *bent) List(ctx context.Context, r ListRange) iter.Seq2[Record, error] {
	given := all(b.Memory.List(ctx, r))
	if b.list != nil {
		given = b.list(r, all(b.Memory.List(ctx, ListRange{})))
	}
	return walkOf(given, b.refused == Listing)
}

func (b *bent) Changes(ctx context.Context, since uint64, prefix string) iter.Seq2[Record, error] {
	given := all(b.Memory.Changes(ctx, since, prefix))
	if b.changes != nil {
		given = b.changes(since, prefix, all(b.Memory.Changes(ctx, 0, "")))
	}
	return walkOf(given, b.refused == Walking)
}

// edit changes the entry of a key, if it is set.
func (b *bent) edit(key string, change func(*entry)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.set[key]; e != nil {
		changed := *e
		change(&changed)
		b.set[key] = &changed
	}
}

// forget unsets a key.
func (b *bent) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.set, key)
}

// waste uses up a revision.
func (b *bent) waste() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.history = append(b.history, &entry{})
}

// newest is the newest revision.
func (b *bent) newest() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.history))
}

// meeting makes the first caller of each name wait for the second.
type meeting struct {
	mu  sync.Mutex
	two map[string]chan struct{}
}

func (m *meeting) wait(name string) {
	m.mu.Lock()
	met, waiting := m.two[name]
	switch {
	case m.two == nil:
		m.two = map[string]chan struct{}{name: make(chan struct{})}
	case !waiting:
		m.two[name] = make(chan struct{})
	default:
		select {
		case <-met: // it is the third
		default:
			close(met)
		}
	}
	met = m.two[name]
	m.mu.Unlock()
	<-met
}

// won turns the answer to a losing put into that of a winning one.
func won(r Result, err error) (Result, error) {
	var lost *LostError
	if errors.As(err, &lost) {
		r = lost.Winner
	}
	r.Created = true
	return r, nil
}

// keys makes stores that change keys.
func keys(change func(string) string) func(*bent) {
	return func(b *bent) { b.key = change }
}

// values makes stores that change values when they are read.
func values(change func(value []byte) []byte) func(*bent) {
	return func(b *bent) { b.value = func(_ string, v []byte) []byte { return change(v) } }
}

// records makes stores that change records when they are read.
func records(change func(*Record)) func(*bent) {
	return func(b *bent) { b.record = change }
}

// losers makes stores that change the answer to a losing put.
func losers(change func(p Put, e *LostError) error) func(*bent) {
	return func(b *bent) {
		b.answer = func(p Put, r Result, err error) (Result, error) {
			if lost := new(*LostError); errors.As(err, lost) {
				changed := **lost
				return r, change(p, &changed)
			}
			return r, err
		}
	}
}

// answers makes stores that change the answer to a put that did not fail.
func answers(change func(p Put, r *Result) error) func(*bent) {
	return func(b *bent) {
		b.answer = func(p Put, r Result, err error) (Result, error) {
			if err == nil {
				err = change(p, &r)
			}
			return r, err
		}
	}
}

// puts makes stores that change puts.
func puts(change func(*Put)) func(*bent) {
	return func(b *bent) {
		b.put = func(p Put, value []byte) (Result, error) {
			change(&p)
			return b.plain(p, value)
		}
	}
}

// lists makes stores that return other lists.
func lists(of func(r ListRange, all []Record) []Record) func(*bent) {
	return func(b *bent) { b.list = of }
}

// inRange returns the records in a range.
func inRange(r ListRange, all []Record) []Record {
	return slices.DeleteFunc(all, func(record Record) bool {
		return !strings.HasPrefix(record.Key, r.Prefix) || record.Key <= r.After
	})
}

func above(since uint64, prefix string, all []Record) []Record {
	return slices.DeleteFunc(all, func(r Record) bool { return r.Revision <= since || !strings.HasPrefix(r.Key, prefix) })
}

// broken holds the stores that break a property, by its name and the defect.
var broken = map[string]map[string]func(*bent){
	"FirstPutWins": {
		"the last one wins": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) { b.forget(p.Key); return b.plain(p, value) }
		},
		"the longest one wins": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if r, _, err := b.Memory.Get(context.Background(), p.Key); err == nil && int64(len(value)) > r.Size {
					b.forget(p.Key)
				}
				return b.plain(p, value)
			}
		},
		"the last content type stays": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				b.edit(p.Key, func(e *entry) { e.ContentType = p.ContentType })
				return b.plain(p, value)
			}
		},
	},
	"SameValueAgain": {
		"it is created again": answers(func(_ Put, r *Result) error { r.Created = true; return nil }),
		"it has a newer number": answers(func(_ Put, r *Result) error {
			if !r.Created {
				r.Revision++
			}
			return nil
		}),
		"it is a conflict": answers(func(_ Put, r *Result) error {
			if !r.Created {
				return &LostError{Winner: *r}
			}
			return nil
		}),
		"the last put id wins": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				b.edit(p.Key, func(e *entry) { e.putID = p.PutID })
				return result, err
			}
		},
	},
	"OtherValueConflicts": {
		"it succeeds":             func(b *bent) { b.answer = func(_ Put, r Result, _ error) (Result, error) { return r, nil } },
		"it says that it has won": func(b *bent) { b.answer = func(_ Put, r Result, err error) (Result, error) { return won(r, err) } },
		"it is strict":            losers(func(_ Put, e *LostError) error { e.Strict = true; return e }),
		"no winner is named":      losers(func(Put, *LostError) error { return api.ErrConflict }),
		"no revision is named":    losers(func(_ Put, e *LostError) error { e.Winner.Revision = 0; return e }),
		"the wrong size is named": losers(func(_ Put, e *LostError) error { e.Winner.Size++; return e }),
		"it names itself":         losers(func(_ Put, e *LostError) error { e.Winner.SHA256 = sha256.Sum256([]byte("two")); return e }),
		"only sizes are compared": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if r, _, err := b.Memory.Get(context.Background(), p.Key); err == nil && int64(len(value)) == r.Size {
					return winnerOf(r), nil
				}
				return b.plain(p, value)
			}
		},
	},
	"IfAbsent": {
		"it is ignored": puts(func(p *Put) { p.IfAbsent = false }),
		"the same bytes may be there": losers(func(p Put, e *LostError) error {
			e.Strict = false
			return e
		}),
		"the same bytes succeed": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				var lost *LostError
				if errors.As(err, &lost) && lost.Winner.SHA256 == sha256.Sum256(value) {
					return lost.Winner, nil
				}
				return result, err
			}
		},
		"no winner is named":  losers(func(_ Put, e *LostError) error { e.Winner = Result{}; return e }),
		"all puts are strict": puts(func(p *Put) { p.IfAbsent = true }),
	},
	"Keep": {
		"it is ignored":   puts(func(p *Put) { p.Keep = false }),
		"all puts keep":   puts(func(p *Put) { p.Keep = true }),
		"it has won":      answers(func(p Put, r *Result) error { r.Created = p.Keep; return nil }),
		"it names itself": answers(func(p Put, r *Result) error { r.SHA256[0] ^= byte(r.Revision); return nil }),
		"the last one wins": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				b.edit(p.Key, func(e *entry) { e.value = value })
				return result, err
			}
		},
	},
	"PutIDRetried": {
		"ids are forgotten": puts(func(p *Put) { p.PutID = "" }),
		"ids are cut":       puts(func(p *Put) { p.PutID = strings.TrimRight(p.PutID, "0123456789~!-") }),
		"the bytes do not count": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				if e := b.set[p.Key]; err != nil && e != nil && p.PutID == e.putID {
					return won(result, err)
				}
				return result, err
			}
		},
		"an id counts for all keys": func(b *bent) {
			seen := map[string]Result{}
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				if before, ok := seen[p.PutID]; ok && p.PutID != "" && err == nil {
					return before, nil
				}
				seen[p.PutID] = result
				return result, err
			}
		},
		"an id counts once": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				if e := b.set[p.Key]; err == nil && result.Revision != b.newest() || e.putID == "spent" {
					result.Created = false
				}
				b.edit(p.Key, func(e *entry) { e.putID = "spent" })
				return result, err
			}
		},
	},
	"FoundForGood": {
		"values expire": func(b *bent) {
			gets := 0
			b.get = func(string) error {
				if gets++; gets > 12 {
					return api.ErrNotFound
				}
				return nil
			}
		},
		"absence is remembered": func(b *bent) {
			absent := map[string]bool{}
			b.get = func(key string) error {
				if b.set[key] == nil {
					absent[key] = true
				}
				if absent[key] {
					return api.ErrNotFound
				}
				return nil
			}
		},
		"what is absent is found": func(b *bent) {
			b.get = func(key string) error { _, err := b.plain(Put{Key: key}, nil); return ignore(err) }
		},
		"the time goes on": records(func(r *Record) { r.Time = time.Now() }),
		"the time is that of the last put": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				b.edit(p.Key, func(e *entry) { e.Time = e.Time.Add(1) })
				return b.plain(p, value)
			}
		},
		"there is no time":  records(func(r *Record) { r.Time = time.Time{} }),
		"keys have no case": keys(strings.ToLower),
		"absence is another error": func(b *bent) {
			b.get = func(key string) error {
				if b.set[key] == nil {
					return api.ErrUnavailable
				}
				return nil
			}
		},
	},
	"RevisionsAreDense": {
		"a loser takes one":         losersWaste(api.ErrConflict),
		"a refused one takes one":   losersWaste(api.ErrDigestMismatch),
		"what is invalid takes one": losersWaste(api.ErrInvalid),
		"the same value takes one": func(b *bent) {
			b.answer = func(_ Put, r Result, err error) (Result, error) {
				if err == nil && !r.Created {
					b.waste()
				}
				return r, err
			}
		},
		"a get takes one":    func(b *bent) { b.get = func(string) error { b.waste(); return nil } },
		"there is only one":  revisions(func(uint64) uint64 { return 1 }),
		"they count from 0":  revisions(func(r uint64) uint64 { return r - 1 }),
		"they are spread":    revisions(func(r uint64) uint64 { return 2 * r }),
		"they run backwards": revisions(func(r uint64) uint64 { return 1000 - r }),
	},
	"PromisedDigest": {
		"it is ignored": puts(func(p *Put) { p.SHA256 = nil }),
		"it is told when the key is set": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				promised := p.SHA256
				p.SHA256 = nil
				result, err := b.plain(p, value)
				if promised != nil && *promised != sha256.Sum256(value) {
					return Result{}, api.ErrDigestMismatch
				}
				return result, err
			}
		},
		"none is right": puts(func(p *Put) {
			if p.SHA256 != nil {
				p.SHA256 = new(Digest)
			}
		}),
	},
	"KeysAreBytes": {
		"paths are cleaned":   keys(path.Clean),
		"slashes are joined":  keys(func(k string) string { return strings.ReplaceAll(k, "//", "/") }),
		"no slash at the end": keys(func(k string) string { return strings.TrimSuffix(k, "/") }),
		"no slash in front":   keys(func(k string) string { return strings.TrimPrefix(k, "/") }),
		"they have no case":   keys(strings.ToLower),
		"they are text":       keys(func(k string) string { return strings.ToValidUTF8(k, "\ufffd") }),
		"they are unescaped": keys(func(k string) string {
			if unescaped, err := url.PathUnescape(k); err == nil {
				return unescaped
			}
			return k
		}),
		"plus is a space":      keys(func(k string) string { return strings.ReplaceAll(k, "+", " ") }),
		"spaces are trimmed":   keys(strings.TrimSpace),
		"they end with a ?":    keys(func(k string) string { before, _, _ := strings.Cut(k, "?"); return before }),
		"they end with a #":    keys(func(k string) string { before, _, _ := strings.Cut(k, "#"); return before }),
		"lines are joined":     keys(func(k string) string { return strings.ReplaceAll(k, "\r\n", "\n") }),
		"accents are composed": keys(func(k string) string { return strings.ReplaceAll(k, "e\u0301", "é") }),
	},
	"KeyLengths": {
		"1,023 bytes count": keys(func(k string) string { return k[:min(len(k), keyBytesMax-1)] }),
		"1,024 bytes are too many": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if len(p.Key) == keyBytesMax {
					return Result{}, api.ErrInvalid
				}
				return b.plain(p, value)
			}
		},
		"one byte is too short": func(b *bent) {
			b.get = func(key string) error {
				if len(key) == 1 {
					return api.ErrInvalid
				}
				return nil
			}
		},
	},
	"InvalidKeys": {
		"the rest is cut off": keys(func(k string) string { return k[:min(len(k), keyBytesMax)] }),
		"a NUL ends a key":    keys(func(k string) string { before, _, _ := strings.Cut(k, "\x00"); return before }),
		"a NUL is left out":   keys(func(k string) string { return strings.ReplaceAll(k, "\x00", "") }),
		"empty is a key": keys(func(k string) string {
			if k == "" {
				return "empty"
			}
			return k
		}),
		"they are not found": func(b *bent) {
			b.get = func(key string) error {
				if checkKey(key) != nil {
					return api.ErrNotFound
				}
				return nil
			}
		},
	},
	"EmptyValue": {
		"it is refused": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if len(value) == 0 {
					return Result{}, api.ErrInvalid
				}
				return b.plain(p, value)
			}
		},
		"it is absent": func(b *bent) {
			b.get = func(key string) error {
				if e := b.set[key]; e != nil && e.Size == 0 {
					return api.ErrNotFound
				}
				return nil
			}
		},
		"it gives way": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if e := b.set[p.Key]; e != nil && e.Size == 0 {
					b.forget(p.Key)
				}
				return b.plain(p, value)
			}
		},
		"it is like every other": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if e := b.set[p.Key]; e != nil && len(value) == 0 {
					value = e.value
				}
				return b.plain(p, value)
			}
		},
		"it has no digest": records(func(r *Record) {
			if r.Size == 0 {
				r.SHA256 = Digest{}
			}
		}),
	},
	"ValuesAreBytes": {
		"they are text":      values(func(v []byte) []byte { return bytes.ToValidUTF8(v, []byte("\ufffd")) }),
		"lines are joined":   values(func(v []byte) []byte { return bytes.ReplaceAll(v, []byte("\r\n"), []byte("\n")) }),
		"spaces are trimmed": values(bytes.TrimSpace),
		"a NUL ends them":    values(func(v []byte) []byte { before, _, _ := bytes.Cut(v, []byte{0}); return before }),
		"null is nothing": values(func(v []byte) []byte {
			if string(v) == "null" {
				return nil
			}
			return v
		}),
		"no byte order mark": values(func(v []byte) []byte { return bytes.TrimPrefix(v, []byte("\ufeff")) }),
		"64 KiB of them":     values(func(v []byte) []byte { return v[:min(len(v), 64<<10)] }),
	},
	"LargeValues": {
		"1 MiB of them": values(func(v []byte) []byte { return v[:min(len(v), 1<<20)] }),
		"whole chunks of them": values(func(v []byte) []byte {
			if len(v) > 1<<20 {
				return v[:len(v)&^(1<<20-1)]
			}
			return v
		}),
		"chunks in another order": values(func(v []byte) []byte {
			if len(v) > 2<<20 {
				return slices.Concat(v[1<<20:2<<20], v[:1<<20], v[2<<20:])
			}
			return v
		}),
		"the first MiB is compared": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if e := b.set[p.Key]; e != nil && len(value) > 1<<20 && len(e.value) == len(value) && bytes.Equal(value[:1<<20], e.value[:1<<20]) {
					return winnerOf(e.Record), nil
				}
				return b.plain(p, value)
			}
		},
		"a read goes on where the last one stopped": func(b *bent) {
			reads := 0
			b.value = func(_ string, v []byte) []byte {
				if reads++; reads%4 == 0 && len(v) > 64<<10 {
					return v[len(v)/2:]
				}
				return v
			}
		},
	},
	"MetadataStays": {
		"it is lost":            puts(func(p *Put) { p.Meta = nil }),
		"the type is lost":      puts(func(p *Put) { p.ContentType = "" }),
		"types have no case":    records(func(r *Record) { r.ContentType = strings.ToLower(r.ContentType) }),
		"parameters are lost":   records(func(r *Record) { r.ContentType, _, _ = strings.Cut(r.ContentType, ";") }),
		"the default is text":   records(func(r *Record) { r.ContentType = strings.Replace(r.ContentType, defaultContentType, "text/plain", 1) }),
		"it is cut":             records(func(r *Record) { delete(r.Meta, "n60") }),
		"an empty text is lost": records(func(r *Record) { delete(r.Meta, "a") }),
		"the last one's stays": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				b.edit(p.Key, func(e *entry) { e.Meta = p.Meta })
				return b.plain(p, value)
			}
		},
	},
	"InvalidMetadata": {
		"it is left out": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				if checkPut(p) != nil {
					p.Meta, p.PutID, p.ContentType = nil, "", ""
				}
				return b.plain(p, value)
			}
		},
		"names have no case": puts(func(p *Put) {
			if text, ok := p.Meta["Name"]; ok {
				p.Meta = map[string]string{"name": text}
			}
		}),
		"it is refused when the key is set": func(b *bent) {
			b.put = func(p Put, value []byte) (Result, error) {
				err := checkPut(p)
				if err != nil {
					_, _ = b.plain(Put{Key: p.Key}, value)
					return Result{}, err
				}
				return b.plain(p, value)
			}
		},
		"it is another error": func(b *bent) {
			b.answer = func(_ Put, r Result, err error) (Result, error) {
				if errors.Is(err, api.ErrInvalid) {
					err = api.ErrServer
				}
				return r, err
			}
		},
	},
	"OnePutWins": {
		"two look and then set": func(b *bent) {
			var met meeting
			b.put = func(p Put, value []byte) (Result, error) {
				_, err := b.Memory.Stat(context.Background(), p.Key)
				met.wait(p.Key)
				if err != nil {
					b.forget(p.Key)
				}
				return b.plain(p, value)
			}
		},
		"nobody has won": answers(func(p Put, r *Result) error {
			return api.ErrUnavailable
		}),
		"a loser hears of the last one": func(b *bent) {
			var last atomic.Pointer[Result]
			b.put = func(p Put, value []byte) (Result, error) {
				result, err := b.plain(p, value)
				lost := new(*LostError)
				if errors.As(err, lost) {
					mine := (*lost).Winner
					mine.SHA256 = sha256.Sum256(value)
					if before := last.Swap(&mine); before != nil {
						return result, &LostError{Winner: *before}
					}
				}
				return result, err
			}
		},
	},
	"OneSetsTheSame": {
		"all who look have won": func(b *bent) {
			var met meeting
			b.put = func(p Put, value []byte) (Result, error) {
				_, err := b.Memory.Stat(context.Background(), p.Key)
				met.wait(p.Key)
				result, lost := b.plain(p, value)
				result.Created = err != nil
				return result, lost
			}
		},
		"those beside it lose": func(b *bent) {
			var met meeting
			b.put = func(p Put, value []byte) (Result, error) {
				met.wait(p.Key)
				result, err := b.plain(p, value)
				if err == nil && !result.Created {
					return Result{}, &LostError{Winner: result}
				}
				return result, err
			}
		},
	},
	"ManyKeysAtOnce": {
		"two have one revision": func(b *bent) {
			var met meeting
			b.put = func(p Put, value []byte) (Result, error) {
				newest := b.newest()
				if !strings.HasSuffix(p.Key, "before") {
					met.wait("")
				}
				result, err := b.plain(p, value)
				result.Revision = newest + 1
				b.edit(p.Key, func(e *entry) { e.Revision = newest + 1 })
				return result, err
			}
		},
		"one is left out": revisions(func(r uint64) uint64 { return r + r/60 }),
		"one is overloaded": answers(func(p Put, r *Result) error {
			if r.Revision == 60 {
				return api.ErrOverloaded
			}
			return nil
		}),
	},
	"ListsAreOrdered": {
		"they are those of changes": func(b *bent) {
			b.list = func(r ListRange, _ []Record) []Record {
				return inRange(r, all(b.Memory.Changes(context.Background(), 0, "")))
			}
		},
		"the prefix is ignored": lists(func(r ListRange, all []Record) []Record { r.Prefix = ""; return inRange(r, all) }),
		"the start is ignored":  lists(func(r ListRange, all []Record) []Record { r.After = ""; return inRange(r, all) }),
		"the start is included": lists(func(r ListRange, all []Record) []Record {
			return inRange(ListRange{Prefix: r.Prefix, After: r.After[:max(0, len(r.After)-1)]}, all)
		}),
		"each page begins with the last key": lists(func(r ListRange, all []Record) (paged []Record) {
			for i, record := range inRange(r, all) {
				if r.Page > 0 && i > 0 && i%r.Page == 0 {
					paged = append(paged, paged[len(paged)-1])
				}
				paged = append(paged, record)
			}
			return paged
		}),
		"each page loses its last key": lists(func(r ListRange, all []Record) (paged []Record) {
			for i, record := range inRange(r, all) {
				if r.Page == 0 || i%r.Page != r.Page-1 {
					paged = append(paged, record)
				}
			}
			return paged
		}),
		"a page is all": lists(func(r ListRange, all []Record) []Record {
			given := inRange(r, all)
			if r.Page > 0 {
				given = given[:min(len(given), r.Page)]
			}
			return given
		}),
		"the last keys are left out": lists(func(r ListRange, all []Record) []Record {
			return slices.DeleteFunc(inRange(r, all), func(record Record) bool { return strings.HasSuffix(record.Key, "\xff") })
		}),
		"they lack metadata": lists(func(r ListRange, all []Record) []Record {
			given := inRange(r, all)
			for i := range given {
				given[i].Meta = nil
			}
			return given
		}),
		"they are old": func(b *bent) {
			b.list = func(r ListRange, all []Record) []Record {
				return inRange(r, slices.DeleteFunc(all, func(record Record) bool { return record.Revision == b.newest() }))
			}
		},
	},
	"ChangesAreComplete": {
		"the start is included": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record { return above(max(since, 1)-1, prefix, all) }
		},
		"the prefix is ignored": func(b *bent) {
			b.changes = func(since uint64, _ string, all []Record) []Record { return above(since, "", all) }
		},
		"one is missing": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record {
				return slices.DeleteFunc(above(since, prefix, all), func(r Record) bool { return r.Revision == 7 })
			}
		},
		"the newest is missing": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record {
				return above(since, prefix, all[:len(all)-1])
			}
		},
		"the newest comes first": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record {
				given := above(since, prefix, all)
				slices.Reverse(given)
				return given
			}
		},
		"one comes twice": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record {
				given := above(since, prefix, all)
				if len(given) > 3 {
					given = slices.Insert(given, 3, given[2])
				}
				return given
			}
		},
		"they are in the order of keys": func(b *bent) {
			b.changes = func(since uint64, prefix string, _ []Record) []Record {
				return above(since, prefix, all(b.Memory.List(context.Background(), ListRange{})))
			}
		},
		"they lack the time": func(b *bent) {
			b.changes = func(since uint64, prefix string, all []Record) []Record {
				given := above(since, prefix, all)
				for i := range given {
					given[i].Time = time.Time{}
				}
				return given
			}
		},
	},
}

// ignore drops the error of a losing put.
func ignore(err error) error {
	if errors.Is(err, api.ErrExists) {
		return nil
	}
	return err
}

// losersWaste makes stores in which a put that fails with this error takes a revision.
func losersWaste(kind error) func(*bent) {
	return func(b *bent) {
		b.answer = func(_ Put, r Result, err error) (Result, error) {
			if errors.Is(err, kind) {
				b.waste()
			}
			return r, err
		}
	}
}

// revisions makes stores that number their records differently.
func revisions(number func(uint64) uint64) func(*bent) {
	return func(b *bent) {
		b.record = func(r *Record) { r.Revision = number(r.Revision) }
		b.answer = func(_ Put, r Result, err error) (Result, error) {
			var lost *LostError
			if errors.As(err, &lost) {
				changed := *lost
				changed.Winner.Revision = number(changed.Winner.Revision)
				return r, &changed
			}
			r.Revision = number(r.Revision)
			return r, err
		}
	}
}
