package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// directLog is a Log of one node: it applies as it is asked.
type directLog struct {
	store *Store

	mu    sync.Mutex
	index uint64
	hook  func(cmd []byte) error // nil, or fails a proposal before it is applied
	after func(cmd []byte) error // the same, after it is applied
	kinds map[commandKind]int    // proposals seen
	reads int
}

func newDirectLog(s *Store) *directLog {
	return &directLog{store: s, index: s.Stats().AppliedIndex, kinds: make(map[commandKind]int)}
}

func (l *directLog) Propose(_ context.Context, cmd []byte) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[commandKind(cmd[1])]++
	if l.hook != nil {
		if err := l.hook(cmd); err != nil {
			return nil, err
		}
	}
	l.index++
	res, err := applyTo(l.store, l.index, 1, [][]byte{cmd}, nil)
	if err != nil {
		return nil, err
	}
	if l.after != nil {
		if err := l.after(cmd); err != nil {
			return nil, err
		}
	}
	return res[0], nil
}

func (l *directLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

// proposer proposes one command.
type proposer interface {
	Propose(ctx context.Context, cmd []byte) (any, error)
}

// proposeEach is ProposeMany by one Propose after the other.
func proposeEach(ctx context.Context, l proposer, cmds [][]byte, each func(i int, result any, err error)) {
	for i, cmd := range cmds {
		result, err := l.Propose(ctx, cmd)
		each(i, result, err)
	}
}

func (l *directLog) Distribute(ctx context.Context, list []bodies.Body) error {
	return distributeTo(ctx, l.store, list)
}

func (l *directLog) ReadIndex(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return nil
}

func (l *directLog) count(k commandKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kinds[k]
}

func newTestDB(t testing.TB, cfg DBConfig) (*DB, *Store, *directLog) {
	t.Helper()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	l := newDirectLog(s)
	return NewDB(s, l, cfg), s, l
}

func put(key Key, value string) PutRequest {
	return PutRequest{Key: key, Body: strings.NewReader(value), Size: int64(len(value))}
}

func TestDB_Put_OnceOnly(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	steps := []struct {
		value, id string
		want      Outcome
	}{{"one", "a", Created}, {"one", "a", Created}, {"one", "", Unchanged}, {"two", "", Conflict}, {"two", "a", Conflict}}
	for i, step := range steps {
		r := put("k", step.value)
		r.PutID = step.id
		if i%2 == 1 {
			r.Size = -1
		}
		res, err := db.Put(t.Context(), r)
		if err != nil || res.Outcome != step.want || res.Meta.SHA256 != sumOf([]byte("one")) || res.Meta.Revision != 1 {
			t.Fatalf("step %d: %+v %v", i, res, err)
		}
	}
	if n := l.count(commandPut); n != 1 {
		t.Fatalf("%d proposals: a set key must not be proposed again", n)
	}
}

func TestDB_Put_RefusesBeforeProposing(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{MaxValueBytes: 3 << 20, Reserve: nil})
	wrong := sumOf([]byte("other"))
	long := strings.Repeat("x", 3<<20+1)
	cases := map[string]struct {
		r    PutRequest
		want error
	}{
		"key":             {put("", "v"), ErrInvalidKey},
		"content type":    {PutRequest{Key: "k", ContentType: "no slash at all;;", Body: strings.NewReader("")}, ErrInvalidContentType},
		"long type":       {PutRequest{Key: "k", ContentType: "a/" + strings.Repeat("b", 254), Body: strings.NewReader("")}, ErrInvalidContentType},
		"put id":          {PutRequest{Key: "k", PutID: "a b", Body: strings.NewReader("")}, ErrInvalidPutID},
		"digest":          {PutRequest{Key: "k", Body: strings.NewReader("v"), Size: 1, SHA256: &wrong}, ErrDigestMismatch},
		"digest, large":   {PutRequest{Key: "k", Body: strings.NewReader(long[:2<<20]), Size: 2 << 20, SHA256: &wrong}, ErrDigestMismatch},
		"size":            {put("k", long), ErrTooLarge},
		"size unknown":    {PutRequest{Key: "k", Body: strings.NewReader(long), Size: -1}, ErrTooLarge},
		"short":           {PutRequest{Key: "k", Body: strings.NewReader("v"), Size: 2}, ErrBodyRead},
		"longer":          {PutRequest{Key: "k", Body: strings.NewReader("vvv"), Size: 2}, ErrBodyRead},
		"short, large":    {PutRequest{Key: "k", Body: strings.NewReader(long[:2<<20]), Size: 2<<20 + 1}, ErrBodyRead},
		"longer, large":   {PutRequest{Key: "k", Body: strings.NewReader(long[:2<<20]), Size: 2<<20 - 1}, ErrBodyRead},
		"broken":          {PutRequest{Key: "k", Body: iotest.ErrReader(io.ErrUnexpectedEOF), Size: -1}, ErrBodyRead},
		"broken, large":   {PutRequest{Key: "k", Body: io.MultiReader(strings.NewReader(long[:2<<20]), iotest.ErrReader(errShort)), Size: -1}, ErrBodyRead},
		"broken, limited": {PutRequest{Key: "k", Body: io.MultiReader(strings.NewReader("v"), iotest.ErrReader(errShort)), Size: 2}, ErrBodyRead},
	}
	for name, c := range cases {
		if _, err := db.Put(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	var large *TooLargeError
	if _, err := db.Put(t.Context(), put("k", long)); !errors.As(err, &large) || large.LimitBytes != 3<<20 {
		t.Errorf("the limit is not named: %v", err)
	}
	if l.count(commandPut)+l.count(commandSeal) != 0 {
		t.Errorf("something was proposed: %v", l.kinds)
	}
	if st := db.store.Stats(); st.OpenUploads != 0 || st.Revision != 0 {
		t.Errorf("something is left: %+v", st)
	}
	wantAllFree(t, db)
}

// Invariant 10: every error is definite, or says that it is not.
func TestDB_Put_ClassifiesErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("some cause")
	for _, c := range []struct {
		from, want error
	}{
		{fmt.Errorf("x: %w", ErrUnavailable), ErrUnavailable}, {ErrOverloaded, ErrOverloaded}, {ErrOutcomeUnknown, ErrOutcomeUnknown},
		{cause, ErrOutcomeUnknown}, {context.DeadlineExceeded, ErrOutcomeUnknown}, {context.Canceled, ErrOutcomeUnknown}, {ErrClosed, ErrOutcomeUnknown},
	} {
		db, _, l := newTestDB(t, DBConfig{ChunkRetry: time.Millisecond})
		l.hook = func(cmd []byte) error { return c.from }
		if _, err := db.Put(t.Context(), put("k", "v")); !errors.Is(err, c.want) || !errors.Is(err, c.from) {
			t.Errorf("small, %v: %v", c.from, err)
		}
		large := PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, 3<<20)), Size: -1}
		// No seal was proposed: nothing about it is unknown.
		if _, err := db.Put(t.Context(), large); errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrOverloaded) {
			t.Errorf("chunk, %v: %v", c.from, err)
		}
		l.hook = func(cmd []byte) error {
			if commandKind(cmd[1]) == commandSeal {
				return c.from
			}
			return nil
		}
		large.Body = bytes.NewReader(make([]byte, 3<<20))
		if _, err := db.Put(t.Context(), large); !errors.Is(err, c.want) {
			t.Errorf("seal, %v: %v", c.from, err)
		}
	}
}

func TestDB_Put_UnknownOutcomeIsRepeatable(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	l.after = func([]byte) error { return ErrOutcomeUnknown }
	r := put("k", "v")
	r.PutID = "mine"
	if _, err := db.Put(t.Context(), r); !errors.Is(err, ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	l.after = nil
	r.Body = strings.NewReader("v")
	if res, err := db.Put(t.Context(), r); err != nil || res.Outcome != Created {
		t.Fatalf("%+v %v", res, err)
	}
}

func TestDB_Put_RetriesChunks(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{})
	n := 0
	l.hook = func([]byte) error {
		if n++; n%3 == 0 {
			return []error{ErrOverloaded, ErrUnavailable, ErrOverloaded}[n%9/3]
		}
		return nil
	}
	l.after = func(cmd []byte) error {
		if n%4 == 0 && commandKind(cmd[1]) == commandChunk {
			return ErrOutcomeUnknown
		}
		return nil
	}
	value := bytes.Repeat([]byte("abc"), 3<<20)
	res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(value), Size: int64(len(value))})
	if err != nil || res.Outcome != Created {
		t.Fatalf("%+v %v", res, err)
	}
	if v, err := s.Get("k"); err != nil || !bytes.Equal(readAll(t, v), value) {
		t.Fatal(err)
	}
}

// Around the size where a value is cut into chunks, known size or not.
func TestDB_Put_ChunkBoundary(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, BodyBytesMin - 1, BodyBytesMin, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 2 * ChunkBytes, 2*ChunkBytes + 1} {
		for _, known := range []bool{true, false} {
			db, s, l := newTestDB(t, DBConfig{})
			value := make([]byte, size)
			_, _ = (&pattern{}).Read(value)
			sum := sumOf(value)
			r := PutRequest{Key: "k", Body: iotest.HalfReader(bytes.NewReader(value)), Size: -1, SHA256: &sum}
			if known {
				r.Size = int64(size)
			}
			res, err := db.Put(t.Context(), r)
			if err != nil || res.Outcome != Created || res.Meta.SHA256 != sum || res.Meta.Size != int64(size) {
				t.Fatalf("%d bytes: %+v %v", size, res, err)
			}
			if err := s.Commit(); err != nil {
				t.Fatal(err)
			}
			if chunks := countChunks(t, s); (chunks > 0) != (size > ChunkBytes) || chunks > 0 && chunks != (size+ChunkBytes-1)/ChunkBytes || (l.count(commandChunk) > 0) != (chunks > 0) {
				t.Fatalf("%d bytes went in %d chunks", size, chunks)
			}
			if refers := size >= BodyBytesMin && size <= ChunkBytes; (l.count(commandRefer) == 1) != refers || (l.count(commandPut) == 1) != (size < BodyBytesMin) {
				t.Fatalf("%d bytes: proposed %v", size, l.kinds)
			}
			if v, err := s.Get("k"); err != nil || !bytes.Equal(readAll(t, v), value) {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
	}
}

// blockedLog holds every proposal up.
type blockedLog struct{ release chan struct{} }

func (l *blockedLog) Propose(ctx context.Context, _ []byte) (any, error) {
	select {
	case <-l.release:
		return nil, ErrUnavailable
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

func (l *blockedLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

func (l *blockedLog) Distribute(ctx context.Context, _ []bodies.Body) error {
	_, err := l.Propose(ctx, nil)
	return err
}

func (l *blockedLog) ReadIndex(context.Context) error { return ErrUnavailable }

func TestDB_Put_OverloadedWhenTooMuchIsInFlight(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	l := &blockedLog{make(chan struct{})}
	db := NewDB(s, l, DBConfig{InFlightBytes: 2 << 20, InFlightWait: time.Millisecond})
	var held sync.WaitGroup
	for i := range 4 {
		held.Go(func() {
			_, err := db.Put(context.Background(), put(Key(fmt.Sprint(i)), strings.Repeat("v", smallPutBytes)))
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("held put: %v", err)
			}
		})
	}
	waitFor(t, func() bool { return db.intake.small.Free() == 0 })
	if _, err := db.Put(t.Context(), put("k", strings.Repeat("v", smallPutBytes))); !errors.Is(err, ErrOverloaded) {
		t.Errorf("got %v", err)
	}
	close(l.release)
	held.Wait()
	if _, err := db.Put(t.Context(), put("k", "v")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after the release: %v", err)
	}
	if _, err := db.Get(t.Context(), "k", Linearizable); !errors.Is(err, ErrUnavailable) {
		t.Errorf("absence without a leader: %v", err)
	}
}

func TestDB_Put_DiskReserve(t *testing.T) {
	t.Parallel()
	low := false
	db, _, l := newTestDB(t, DBConfig{Reserve: func() error {
		if low {
			return ErrDiskReserve
		}
		return nil
	}})
	if _, err := db.Put(t.Context(), put("k", "v")); err != nil {
		t.Fatal(err)
	}
	low = true
	if _, err := db.Put(t.Context(), put("l", "v")); !errors.Is(err, ErrDiskReserve) || l.count(commandPut) != 1 {
		t.Fatalf("%v, %d proposals", err, l.count(commandPut))
	}
	if res, err := db.Put(t.Context(), put("k", "v")); err != nil || res.Outcome != Unchanged {
		t.Fatalf("a put that writes nothing: %+v %v", res, err)
	}
}

// A large body whose key gets set by another put meanwhile.
func TestDB_Put_LosesInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{true, false} {
		db, s, l := newTestDB(t, DBConfig{})
		value := bytes.Repeat([]byte("v"), 10<<20)
		winner := bytes.Clone(value)
		if !same {
			winner[0] = 'w'
		}
		var once sync.Once
		body := &hookReader{Reader: bytes.NewReader(value), at: 5 << 20, hook: func() {
			once.Do(func() {
				if res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(winner), Size: -1}); err != nil || res.Outcome != Created {
					t.Errorf("the winner: %+v %v", res, err)
				}
			})
		}}
		want := map[bool]Outcome{true: Unchanged, false: Conflict}[same]
		res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: int64(len(value))})
		if err != nil || res.Outcome != want || res.Meta.SHA256 != sha256.Sum256(winner) {
			t.Fatalf("same bytes %v: %+v %v", same, res, err)
		}
		if st := s.Stats(); st.OpenUploads != 0 || l.count(commandSeal) != 1 {
			t.Fatalf("%+v, %d seals", st, l.count(commandSeal))
		}
	}
}

// hookReader calls hook when so many bytes were read.
type hookReader struct {
	io.Reader
	n, at int
	hook  func()
}

func (r *hookReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.n += n; r.n >= r.at {
		r.hook()
	}
	return n, err
}

func TestDB_Put_64MiBInChunks(t *testing.T) {
	t.Parallel()
	s := openDir(t, t.TempDir(), StoreConfig{})
	stop := startRun(t, s)
	defer stop()
	db := NewDB(s, newDirectLog(s), DBConfig{InFlightBytes: 4 << 20})
	const size = 64<<20 + 12345
	res, err := db.Put(t.Context(), PutRequest{Key: "big", ContentType: "application/zip", Body: io.LimitReader(&pattern{}, size), Size: -1})
	if err != nil || res.Outcome != Created || res.Meta.Size != size {
		t.Fatalf("%+v %v", res, err)
	}
	v, err := db.Get(t.Context(), "big", Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	if _, inline := v.Bytes(); inline {
		t.Fatal("64 MiB are held in memory")
	}
	h := sha256.New()
	r := v.Open(t.Context())
	defer r.Close()
	if n, err := io.Copy(h, r); n != size || err != nil || Digest(h.Sum(nil)) != v.SHA256 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	for _, off := range []int64{0, 1, ChunkBytes - 1, ChunkBytes, 33<<20 + 7, size - 1} {
		var got [1]byte
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, got[:]); err != nil || got[0] != patternAt(off) {
			t.Fatalf("byte %d is %d, want %d; %v", off, got[0], patternAt(off), err)
		}
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("past the end: %d %v", n, err)
	}
	if at, err := r.Seek(-5, io.SeekEnd); at != size-5 || err != nil {
		t.Fatal(at, err)
	}
	again, err := db.Put(t.Context(), PutRequest{Key: "big", Body: io.LimitReader(&pattern{}, size), Size: size})
	if err != nil || again.Outcome != Unchanged {
		t.Fatalf("%+v %v", again, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Open(ctx).Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Fatalf("read with a cancelled context: %v", err)
	}
}

// pattern is an endless stream of bytes that differ from chunk to chunk.
type pattern struct{ off int64 }

func patternAt(off int64) byte { return byte(off*7 + off>>12 + off>>20) }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = patternAt(p.off)
		p.off++
	}
	return len(b), nil
}

func TestDB_Put_ManyAtOnce(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{InFlightBytes: 3 << 20, InFlightWait: patience})
	stop := startRun(t, s)
	defer stop()
	const writers, keys = 8, 6
	var mu sync.Mutex
	winners := make(map[Key]Digest)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for k := range keys {
				key := Key(fmt.Sprint("key ", k))
				value := bytes.Repeat([]byte{byte(w)}, k*700_000+w)
				res, err := db.Put(t.Context(), PutRequest{Key: key, Body: bytes.NewReader(value), Size: []int64{-1, int64(len(value))}[w%2]})
				if err != nil {
					t.Errorf("%s: %v", key, err)
					continue
				}
				mu.Lock()
				if old, ok := winners[key]; ok && old != res.Meta.SHA256 || (res.Outcome == Created) != (res.Meta.SHA256 == sumOf(value)) {
					t.Errorf("%s: %+v", key, res)
				}
				winners[key] = res.Meta.SHA256
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.Revision != keys || st.OpenUploads != 0 {
		t.Fatalf("%+v", st)
	}
	for key, sum := range winners {
		if v, err := s.Get(key); err != nil || sumOf(readAll(t, v)) != sum {
			t.Fatalf("%s: %v", key, err)
		}
	}
}

// Invariant 4: a found value needs no round, an absence does.
func TestDB_Get(t *testing.T) {
	t.Parallel()
	db, _, l := newTestDB(t, DBConfig{})
	for _, c := range []struct {
		c     Consistency
		reads int
	}{{Local, 0}, {Linearizable, 1}} {
		if _, err := db.Get(t.Context(), "k", c.c); !errors.Is(err, ErrNotFound) || l.reads != c.reads {
			t.Fatalf("%v, %d rounds", err, l.reads)
		}
	}
	if _, err := db.Put(t.Context(), put("k", "v")); err != nil {
		t.Fatal(err)
	}
	if v, err := db.Get(t.Context(), "k", Linearizable); err != nil || string(readAll(t, v)) != "v" || l.reads != 1 {
		t.Fatalf("%v, %d rounds", err, l.reads)
	}
	if _, err := db.Get(t.Context(), "", Local); !errors.Is(err, ErrInvalidKey) {
		t.Fatal(err)
	}
}

// Nobody's clock but the machine's own says how long an upload is idle.
func TestDB_Run_DropsIdleUploads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, s, l := newTestDB(t, DBConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.Run(ctx) }()
		future, past, left := uploadID{1}, uploadID{2}, uploadID{3}
		chunk := func(id uploadID, n uint32, clock time.Duration) {
			t.Helper()
			if res, err := l.Propose(t.Context(), testChunk(id, n, bytes.Repeat([]byte("x"), ChunkBytes), time.Now().Add(clock))); err != nil || res != (ChunkResult{}) {
				t.Fatal(res, err)
			}
		}
		open := func() string {
			synctest.Wait()
			s.mu.RLock()
			defer s.mu.RUnlock()
			return fmt.Sprint(sortedUploads(s.uploads))
		}
		openUpload := func(id uploadID) {
			t.Helper()
			if res, err := l.Propose(t.Context(), openCommand(id, time.Now())); err != nil || res != (OpenResult{}) {
				t.Fatal(res, err)
			}
		}
		openUpload(future)
		openUpload(past)
		chunk(future, 0, 365*24*time.Hour)
		chunk(past, 0, -365*24*time.Hour)
		for n := range uint32(3) { // the one that goes on stays, whatever its clock says
			time.Sleep(50 * time.Second)
			chunk(past, n+1, -365*24*time.Hour)
			if n == 0 && open() != fmt.Sprint([]uploadID{future, past}) {
				t.Fatalf("after 50 seconds: %s", open())
			}
		}
		if open() != fmt.Sprint([]uploadID{past}) || s.uploads[past].count() != 4 {
			t.Fatalf("after two minutes and a half: %s", open())
		}
		openUpload(left)
		time.Sleep(2 * time.Minute)
		if open() != "[]" {
			t.Fatalf("in the end: %s", open())
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// A body may be slow for as long as it likes, whatever the clock of its node says: others
// see that it arrives. When that node is gone, they drop the upload in a minute or so.
func TestDB_Put_SlowBody(t *testing.T) {
	t.Parallel()
	for _, clock := range []time.Duration{1, 0, -1} { // it goes, stands still, goes backwards
		for _, dies := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				other, s, direct := newTestDB(t, DBConfig{})
				l := &cutLog{directLog: direct}
				began := time.Now()
				db := NewDB(s, l, DBConfig{Now: func() time.Time { return began.Add(clock * time.Since(began)) }})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- other.Run(ctx) }()
				slow := hook(func() {
					time.Sleep(5 * time.Minute)
					if n := s.Stats().OpenUploads; n != 1 {
						t.Errorf("clock %d: %d uploads are open while the body arrives", clock, n)
					}
					if !dies {
						return
					}
					l.cut.Store(true)
					time.Sleep(db.cfg.UploadIdle + db.cfg.SweepInterval + time.Second)
					if n := s.Stats().OpenUploads; n != 0 {
						t.Errorf("clock %d: %d uploads of a node that is gone are open", clock, n)
					}
				})
				body := io.MultiReader(bytes.NewReader(make([]byte, ChunkBytes+1)), slow, bytes.NewReader(make([]byte, ChunkBytes)))
				res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: -1})
				if dies != errors.Is(err, ErrUnavailable) || !dies && (err != nil || res.Outcome != Created) {
					t.Errorf("clock %d: %+v, %v", clock, res, err)
				}
				opened := l.count(commandOpen)
				time.Sleep(time.Hour)
				if n := l.count(commandOpen); n != opened || n > 25 || s.Stats().OpenUploads != 0 {
					t.Errorf("clock %d: opened %d times, then %d more; %d uploads are open", clock, opened, n-opened, s.Stats().OpenUploads)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Time in which nobody could be asked is not held against an upload.
func TestDB_Run_CountsNoTimeWithoutAQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		l := &lateLog{directLog: newDirectLog(s)}
		db := NewDB(s, l, DBConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.Run(ctx) }()
		if _, err := l.Propose(t.Context(), openCommand(uploadID{1}, time.Now())); err != nil {
			t.Fatal(err)
		}
		l.missed.Store(&[]byte{})
		time.Sleep(db.cfg.UploadIdle - time.Second)
		l.missed.Store(nil)
		time.Sleep(db.cfg.UploadIdle - time.Second)
		if s.Stats().OpenUploads != 1 {
			t.Error("dropped before anybody could show that it lives")
		}
		time.Sleep(db.cfg.UploadIdle)
		if s.Stats().OpenUploads != 0 {
			t.Error("not dropped in the end")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// cutLog is the log of a node that may be cut off.
type cutLog struct {
	*directLog
	cut atomic.Bool
}

func (l *cutLog) Propose(ctx context.Context, cmd []byte) (any, error) {
	if l.cut.Load() {
		return nil, ErrUnavailable
	}
	return l.directLog.Propose(ctx, cmd)
}

func (l *cutLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

// A node that is behind sees no chunk come. It must not take that for idle.
func TestDB_Run_DropsNothingWhileBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		l := &lateLog{directLog: newDirectLog(s)}
		db := NewDB(s, l, DBConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.Run(ctx) }()
		if _, err := l.Propose(t.Context(), openCommand(uploadID{1}, time.Now())); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Propose(t.Context(), testChunk(uploadID{1}, 0, bytes.Repeat([]byte("x"), ChunkBytes), time.Now())); err != nil {
			t.Fatal(err)
		}
		l.missed.Store(&[]byte{})
		time.Sleep(3 * time.Minute)
		if s.Stats().OpenUploads != 1 {
			t.Fatal("dropped while nobody could be asked")
		}
		chunk := testChunk(uploadID{1}, 1, []byte("y"), time.Now())
		l.missed.Store(&chunk)
		time.Sleep(50 * time.Second)
		if s.Stats().OpenUploads != 1 {
			t.Fatal("dropped although it went on")
		}
		time.Sleep(time.Minute)
		if s.Stats().OpenUploads != 0 {
			t.Fatal("not dropped in the end")
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// lateLog is the log of a node that is behind by one command: an empty one cannot
// be had, any other comes when the node asks how far the log is.
type lateLog struct {
	*directLog
	missed atomic.Pointer[[]byte] // nil: nothing
}

func (l *lateLog) ReadIndex(ctx context.Context) error {
	missed := l.missed.Load()
	switch {
	case missed == nil:
		return nil
	case len(*missed) == 0:
		return ErrUnavailable
	}
	l.missed.Store(nil)
	_, err := l.Propose(ctx, *missed)
	return err
}

// unruly is a log in which chunks may overtake others. The hook may change what
// becomes of a proposal; the first of an upload come in one call.
type unruly struct {
	*directLog
	hook func(n uint32, attempt int) error

	mu       sync.Mutex
	attempts map[uint32]int
}

func newUnruly(s *Store, hook func(n uint32, attempt int) error) *unruly {
	return &unruly{directLog: newDirectLog(s), hook: hook, attempts: make(map[uint32]int)}
}

func (l *unruly) Propose(ctx context.Context, cmd []byte) (any, error) {
	if c, err := decodeCommand(cmd); err == nil && c.kind == commandChunk {
		l.mu.Lock()
		l.attempts[c.number]++
		attempt := l.attempts[c.number]
		l.mu.Unlock()
		if err := l.hook(c.number, attempt); err != nil {
			return nil, err
		}
	}
	return l.directLog.Propose(ctx, cmd)
}

func (l *unruly) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

// Whatever order the log gives to chunks, and whichever it loses, the value comes
// whole. A chunk is refused once at most because it came too early.
func TestDB_Put_ChunksOutOfOrder(t *testing.T) {
	t.Parallel()
	value := make([]byte, 9*ChunkBytes+77)
	_, _ = (&pattern{}).Read(value)
	late := func(d time.Duration) { time.Sleep(d) } // in the bubble: all others go first
	for name, c := range map[string]struct {
		hook func(n uint32, attempt int) error
		most int // proposals of one chunk
	}{
		"in order": {func(uint32, int) error { late(time.Millisecond); return nil }, 2},
		"each overtakes the one before it": {func(n uint32, attempt int) error {
			if attempt == 1 {
				late(time.Duration(10-n%4) * time.Millisecond)
			}
			return nil
		}, 2},
		"one is lost, and known to be only when the rest came": {func(n uint32, attempt int) error {
			if n == 2 && attempt == 1 {
				late(time.Second)
				return ErrOutcomeUnknown
			}
			return nil
		}, 2},
		"the first is lost": {func(n uint32, attempt int) error {
			if n == 0 && attempt == 1 {
				late(time.Second)
				return ErrUnavailable
			}
			return nil
		}, 2},
		"one is refused now and then": {func(n uint32, attempt int) error {
			if n%3 == 1 && attempt < 4 {
				return ErrOverloaded
			}
			return nil
		}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := mustOpen(t, newMemDisks(), StoreConfig{})
				l := newUnruly(s, c.hook)
				db := NewDB(s, l, DBConfig{})
				res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(value), Size: -1})
				if err != nil || res.Outcome != Created {
					t.Fatalf("%+v, %v", res, err)
				}
				for n, attempts := range l.attempts {
					if attempts > c.most {
						t.Errorf("chunk %d is proposed %d times", n, attempts)
					}
				}
				if v, err := s.Get("k"); err != nil || !bytes.Equal(readAll(t, v), value) {
					t.Fatal(err)
				}
				if s.Stats().OpenUploads != 0 {
					t.Fatal("an upload is open")
				}
				wantAllFree(t, db)
				wantNoHolders(t, db)
			})
		})
	}
}

// While a chunk waits to be proposed again, the next ones wait too: they would only be
// refused.
func TestDB_Put_ChunksWaitForOneThatWasNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		var waits atomic.Bool
		l := newUnruly(s, func(n uint32, attempt int) error {
			switch {
			case n == 1 && attempt == 1:
				waits.Store(true)
				return ErrOverloaded
			case n == 1:
				waits.Store(false)
			case waits.Load():
				t.Errorf("chunk %d is proposed, attempt %d", n, attempt)
			}
			return nil
		})
		db := NewDB(s, l, DBConfig{})
		var body []io.Reader
		for range 8 {
			body = append(body, bytes.NewReader(make([]byte, ChunkBytes)), hook(func() { time.Sleep(retryPauseFirst / 10) }))
		}
		res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: io.MultiReader(body...), Size: -1})
		if err != nil || res.Outcome != Created || l.attempts[1] != 2 {
			t.Errorf("%+v, %v; proposed: %v", res, err, l.attempts)
		}
	})
}

// A chunk that never gets through ends the put, in time, with all that wait for it.
func TestDB_Put_ChunkNeverTaken(t *testing.T) {
	t.Parallel()
	for _, lost := range []uint32{0, 1, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := mustOpen(t, newMemDisks(), StoreConfig{})
			l := newUnruly(s, func(n uint32, _ int) error {
				if n == lost {
					return ErrUnavailable
				}
				return nil
			})
			db := NewDB(s, l, DBConfig{})
			began := time.Now()
			_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, 9*ChunkBytes)), Size: -1})
			if took := time.Since(began); !errors.Is(err, ErrUnavailable) || took < db.cfg.ChunkRetry || took > db.cfg.ChunkRetry+2*retryPauseMax {
				t.Errorf("chunk %d: after %v: %v", lost, took, err)
			}
			if s.Stats().OpenUploads != 0 || l.count(commandSeal) != 0 {
				t.Errorf("chunk %d: %+v", lost, s.Stats())
			}
			wantAllFree(t, db)
			wantNoHolders(t, db)
		})
	}
}

// An upload that was dropped meanwhile ends the put at once: its next chunk is not
// proposed over and over.
func TestDB_Put_UploadDroppedMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db, s, l := newTestDB(t, DBConfig{})
		drop := hook(func() {
			synctest.Wait()
			for id := range s.openUploads() {
				if _, err := l.Propose(t.Context(), abandonCommand(id)); err != nil {
					t.Error(err)
				}
			}
		})
		body := io.MultiReader(bytes.NewReader(make([]byte, 2*ChunkBytes+1)), drop, bytes.NewReader(make([]byte, 6*ChunkBytes)))
		began := time.Now()
		_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: -1})
		if !errors.Is(err, ErrUnavailable) || time.Since(began) > time.Second || l.count(commandChunk) > 2+2*chunksInFlight {
			t.Errorf("after %v: %v; proposed: %v", time.Since(began), err, l.kinds)
		}
		if s.Stats().OpenUploads != 0 {
			t.Error("an upload is open")
		}
	})
}

// No more uploads are open than may be: the next put is refused when it opens its own,
// before the rest of its body is read.
func TestDB_Put_TooManyUploads(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{})
	var cmds [][]byte
	for n := range openUploadsMax {
		cmds = append(cmds, openCommand(uploadID{byte(n), byte(n >> 8), 1}, time.Now()))
	}
	db.log.ProposeMany(t.Context(), cmds, func(i int, result any, err error) {
		if result != (OpenResult{}) || err != nil {
			t.Fatalf("upload %d: %v, %v", i, result, err)
		}
	})
	body := bytes.NewReader(make([]byte, 64*ChunkBytes))
	_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: -1})
	if !errors.Is(err, ErrTooManyUploads) || errors.Is(err, ErrOutcomeUnknown) || body.Len() == 0 || s.Stats().OpenUploads != openUploadsMax {
		t.Fatalf("%v; %d bytes are not read, %d uploads open", err, body.Len(), s.Stats().OpenUploads)
	}
	for id := range s.openUploads() {
		if _, err := l.Propose(t.Context(), abandonCommand(id)); err != nil {
			t.Fatal(err)
		}
		break
	}
	if res, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, 2*ChunkBytes)), Size: -1}); err != nil || res.Outcome != Created {
		t.Fatalf("with room for one: %+v, %v", res, err)
	}
}

// steppedLog lets one body after the other through Distribute, in the order of their first
// bytes: a chunk that is distributed waits for those before it.
type steppedLog struct {
	*directLog
	steps    [256]chan struct{}
	entered  atomic.Int32
	inFlight atomic.Int32
}

func (l *steppedLog) Distribute(ctx context.Context, list []bodies.Body) error {
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	l.entered.Add(1)
	select {
	case <-l.steps[list[0].Data[0]]:
		return l.directLog.Distribute(ctx, list)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A large put has many chunks on their way at a time, but few while others put.
func TestDB_Put_LargeGivesWayToOthers(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	l := &steppedLog{directLog: newDirectLog(s)}
	for i := range l.steps {
		l.steps[i] = make(chan struct{})
	}
	now := new(atomic.Int64)
	db := NewDB(s, l, DBConfig{Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	const chunks = 40
	var putting sync.WaitGroup
	putting.Go(func() {
		value := make([]byte, chunks*ChunkBytes)
		for i := range chunks {
			value[i*ChunkBytes] = byte(i)
		}
		body := bytes.NewReader(value)
		if res, err := db.Put(t.Context(), PutRequest{Key: "large", Body: body, Size: chunks * ChunkBytes}); err != nil || res.Outcome != Created {
			t.Errorf("%+v, %v", res, err)
		}
	})
	next := 0
	settle := func(n int32) {
		t.Helper()
		waitFor(t, func() bool { return l.entered.Load() == int32(next)+n && l.inFlight.Load() == n })
	}
	step := func(n int) {
		for range n {
			close(l.steps[next])
			next++
		}
	}
	settle(chunksInFlight)
	if _, err := db.Put(t.Context(), put("small", "v")); err != nil {
		t.Fatal(err)
	}
	step(chunksInFlight - chunksBeside + 1) // the next was waiting for a place already
	settle(chunksBeside)
	step(3)
	settle(chunksBeside)
	now.Add(2)
	step(2) // when the next takes its place, nobody else has put for a while
	settle(chunksInFlight)
	step(chunks - next)
	putting.Wait()
}
