package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
)

// What is to be linearizable is refused while nobody can be asked.
func TestDB_Reads_NoLeader(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	db := NewDB(s, &blockedLog{}, DBConfig{})
	for what, do := range map[string]func() error{
		"Get":     func() error { _, err := db.Get(t.Context(), "k", Linearizable); return err },
		"Confirm": func() error { return db.Confirm(t.Context()) },
		"Keys":    func() error { _, err := db.Keys(t.Context(), KeysRequest{Limit: 1}, Linearizable); return err },
		"Changes": func() error { _, err := db.Changes(t.Context(), ChangesRequest{Limit: 1}, Linearizable); return err },
	} {
		if err := do(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// wantNoHolders fails if somebody who holds memory or a place, or waited for it, was
// not taken off the list.
func wantNoHolders(t *testing.T, db *DB) {
	t.Helper()
	for i, b := range append(db.intake.steps[:], db.intake.small, db.intake.many, db.intake.uploads) {
		if n := reflect.ValueOf(b).Elem().FieldByName("holders").Len(); n > 0 {
			t.Errorf("budget %d is left with %d holders", i, n)
		}
	}
}

// putKind is a put of some size, and what it needs of the intake.
type putKind struct {
	size  int
	known bool
	needs []*budget.Budget
}

func putKinds(in *intake) map[string]putKind {
	return map[string]putKind{
		"free":          {freePutBytes, true, nil},
		"small":         {smallPutBytes, true, []*budget.Budget{in.small}},
		"medium":        {300 << 10, true, in.steps[:]},
		"unknown, tiny": {1, false, []*budget.Budget{in.uploads, in.steps[0]}},
		"unknown":       {300 << 10, false, append([]*budget.Budget{in.uploads}, in.steps[:]...)},
		"large":         {ChunkBytes + 1, true, append([]*budget.Budget{in.uploads}, in.steps[:]...)},
	}
}

// request is a put of that kind, whose body is as long as its size.
func (k putKind) request(key Key, body io.Reader) PutRequest {
	r := PutRequest{Key: key, Body: body, Size: -1}
	if k.known {
		r.Size = int64(k.size)
	}
	return r
}

// Whatever a put needs, if it cannot be had the put is refused as overloaded, or
// ends with its request; nothing is set, and nothing is kept.
func TestDB_Put_NothingLeft(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{InFlightBytes: 2 << 20, InFlightWait: time.Millisecond})
	in := db.intake
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, kind := range putKinds(in) {
		for _, b := range kind.needs {
			for _, ctx := range []context.Context{t.Context(), gone} {
				db.cfg.InFlightWait = time.Millisecond
				want := ErrOverloaded
				if ctx == gone {
					db.cfg.InFlightWait, want = patience, context.Canceled
				}
				all := b.Free()
				if !b.Try(all) {
					t.Fatal("something is held already")
				}
				_, err := db.Put(ctx, kind.request("k", bytes.NewReader(make([]byte, kind.size))))
				if !errors.Is(err, ErrOverloaded) || !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
				b.Give(all)
			}
		}
	}
	db.cfg.InFlightWait = time.Millisecond
	all := in.many.Free()
	in.many.Try(all)
	for i, r := range putMany(t, db, SmallPut{Key: "k", Value: []byte("v")}, SmallPut{Key: "l", Value: []byte("v")}) {
		if !errors.Is(r.err, ErrOverloaded) {
			t.Errorf("put %d of many: %v", i, r.err)
		}
	}
	in.many.Give(all)
	if st := s.Stats(); st.Revision != 0 || st.OpenUploads != 0 || len(l.kinds) != 0 {
		t.Errorf("%+v, proposed: %v", st, l.kinds)
	}
	wantAllFree(t, db)
	wantNoHolders(t, db)
}

// The same in the middle of a large put. If a chunk has failed meanwhile, that is
// why.
func TestDB_Put_NothingLeftForTheNextChunk(t *testing.T) {
	t.Parallel()
	for _, want := range []error{ErrOverloaded, ErrDiskReserve} {
		db, s, l := newTestDB(t, DBConfig{ChunkRetry: time.Millisecond})
		l.hook = func(cmd []byte) error {
			if want == ErrDiskReserve && commandKind(cmd[1]) == commandChunk {
				return want
			}
			return nil
		}
		var took int64
		body := &hookReader{Reader: bytes.NewReader(make([]byte, 2*ChunkBytes)), at: ChunkBytes + 1}
		body.hook = func() {
			if took == 0 {
				took = db.intake.steps[0].Free()
				db.intake.steps[0].Try(took)
			}
		}
		if _, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: 2 * ChunkBytes}); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		db.intake.steps[0].Give(took)
		if st := s.Stats(); st.Revision != 0 || st.OpenUploads != 0 {
			t.Errorf("%+v", st)
		}
		wantAllFree(t, db)
		wantNoHolders(t, db)
	}
}

// stumbling is a body that breaks off at some place, once: who reads on gets the rest.
type stumbling struct {
	io.Reader
	left  int
	broke bool
}

func (s *stumbling) Read(p []byte) (int, error) {
	if s.broke {
		return s.Reader.Read(p)
	}
	if s.left == 0 {
		s.broke = true
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.Reader.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// A body that could not be read once is refused, wherever that was and however the put
// is made: nobody knows what is missing.
func TestDB_Put_BodyBreaksOnce(t *testing.T) {
	t.Parallel()
	db, s, l := newTestDB(t, DBConfig{})
	if _, err := db.Put(t.Context(), put("set", "v")); err != nil {
		t.Fatal(err)
	}
	before := l.count(commandPut)
	for name, kind := range putKinds(db.intake) {
		for _, at := range []int{0, kind.size / 2, kind.size - 1, kind.size} {
			for _, key := range []Key{"new", "set"} {
				body := &stumbling{Reader: bytes.NewReader(make([]byte, kind.size)), left: at}
				if _, err := db.Put(t.Context(), kind.request(key, body)); !errors.Is(err, ErrBodyRead) || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s of key %q, at byte %d: %v", name, key, at, err)
				}
			}
		}
	}
	if st := s.Stats(); st.Revision != 1 || st.OpenUploads != 0 || l.count(commandPut) != before {
		t.Errorf("%+v, proposed: %v", st, l.kinds)
	}
	wantAllFree(t, db)
	wantNoHolders(t, db)
}

// A put of a key that is set is refused for the same reasons as any other: it must
// not depend on who was first whether a broken request is told so.
func TestDB_Put_RefusesThoughTheKeyIsSet(t *testing.T) {
	t.Parallel()
	db, _, _ := newTestDB(t, DBConfig{MaxValueBytes: 100})
	if _, err := db.Put(t.Context(), put("k", "v")); err != nil {
		t.Fatal(err)
	}
	wrong := sumOf([]byte("other"))
	for name, c := range map[string]struct {
		r    PutRequest
		want error
	}{
		"digest":       {PutRequest{Body: strings.NewReader("v"), Size: 1, SHA256: &wrong}, ErrDigestMismatch},
		"short":        {PutRequest{Body: strings.NewReader("v"), Size: 2}, ErrBodyRead},
		"longer":       {PutRequest{Body: strings.NewReader("vv"), Size: 1}, ErrBodyRead},
		"size":         {PutRequest{Body: strings.NewReader("v"), Size: 101}, ErrTooLarge},
		"size unknown": {PutRequest{Body: strings.NewReader(strings.Repeat("v", 101)), Size: -1}, ErrTooLarge},
		"broken":       {PutRequest{Body: iotest.ErrReader(errShort), Size: -1}, ErrBodyRead},
		"content type": {PutRequest{ContentType: "no type;;", Body: strings.NewReader("v"), Size: 1}, ErrInvalidContentType},
		"put id":       {PutRequest{PutID: "a b", Body: strings.NewReader("v"), Size: 1}, ErrInvalidPutID},
	} {
		c.r.Key = "k"
		if r, err := db.Put(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", name, r, err, c.want)
		}
	}
}

// Without random bytes no id is made up: two puts with one id would take each
// other's success for theirs, and two uploads each other's chunks.
func TestDB_Put_NoRandomBytes(t *testing.T) {
	t.Parallel()
	cause := errors.New("no random bytes")
	for _, random := range []io.Reader{iotest.ErrReader(cause), strings.NewReader("seven..")} {
		db, s, l := newTestDB(t, DBConfig{Rand: random})
		large := PutRequest{Key: "k", PutID: "id", Body: bytes.NewReader(make([]byte, ChunkBytes+1)), Size: -1}
		for _, r := range []PutRequest{put("k", "v"), large} {
			if _, err := db.Put(t.Context(), r); err == nil {
				t.Errorf("a put of %d bytes was made", r.Size)
			}
		}
		if r := putMany(t, db, SmallPut{Key: "k"}); r[0].err == nil {
			t.Errorf("%+v", r)
		}
		if s.Stats().Revision != 0 || len(l.kinds) != 0 {
			t.Errorf("proposed: %v", l.kinds)
		}
		wantAllFree(t, db)
		wantNoHolders(t, db)
	}
}

// slowLog answers proposals of chunks with an error, or not before it is told so;
// whether the request that made them has ended is nothing to it.
type slowLog struct {
	*directLog
	chunks  chan struct{} // nil: no proposal waits
	refusal error         // of chunks
}

func (l *slowLog) Propose(ctx context.Context, cmd []byte) (any, error) {
	if commandKind(cmd[1]) == commandChunk {
		if l.chunks != nil {
			<-l.chunks
		}
		if l.refusal != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.kinds[commandChunk]++
			return nil, l.refusal
		}
	}
	return l.directLog.Propose(ctx, cmd)
}

func (l *slowLog) ProposeMany(ctx context.Context, cmds [][]byte, each func(i int, result any, err error)) {
	proposeEach(ctx, l, cmds, each)
}

// A large put whose request ends while it waits for its chunks is over: it is not
// read on, and not sealed.
func TestDB_Put_EndsWhileChunksAreInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		l := &slowLog{directLog: newDirectLog(s), chunks: make(chan struct{})}
		db := NewDB(s, l, DBConfig{})
		ctx, cancel := context.WithCancel(t.Context())
		body := &hookReader{Reader: bytes.NewReader(make([]byte, (chunksInFlight+3)*ChunkBytes)), at: (chunksInFlight+1)*ChunkBytes + 1, hook: cancel}
		failed := make(chan error, 1)
		go func() {
			_, err := db.Put(ctx, PutRequest{Key: "k", Body: body, Size: (chunksInFlight + 3) * ChunkBytes})
			failed <- err
		}()
		synctest.Wait()
		close(l.chunks)
		if err := <-failed; !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Error(err)
		}
		chunks := l.count(commandChunk) // some may have come too early, and once more, or not at all
		if body.n != body.at || l.count(commandSeal) != 0 || l.count(commandAbandon) != 1 || chunks >= 2*chunksInFlight {
			t.Errorf("%d bytes are read; proposed: %v", body.n, l.kinds)
		}
		wantAllFree(t, db)
		wantNoHolders(t, db)
	})
}

// A large put one of whose chunks was refused is over: no others are proposed.
func TestDB_Put_EndsWithAChunk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		l := &slowLog{directLog: newDirectLog(s), refusal: ErrDiskReserve}
		db := NewDB(s, l, DBConfig{})
		first := bytes.NewReader(make([]byte, ChunkBytes+1)) // the next chunk begins with the last byte
		body := io.MultiReader(first, hook(func() { synctest.Wait() }), bytes.NewReader(make([]byte, 3*ChunkBytes)))
		if _, err := db.Put(t.Context(), PutRequest{Key: "k", Body: body, Size: -1}); !errors.Is(err, ErrDiskReserve) {
			t.Error(err)
		}
		if n := l.count(commandChunk); n != 1 {
			t.Errorf("%d chunks are proposed", n)
		}
	})
}

// Whatever becomes of a seal, its upload is dropped if it is certain that it was not
// sealed, and left alone if it was, or may have been.
func TestDB_Put_DropsWhatWasNotSealed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		refusal error
		want    error // nil: the put is made
		dropped bool
	}{{nil, nil, false}, {ErrDiskReserve, ErrDiskReserve, true}, {ErrUnavailable, ErrUnavailable, true}, {ErrOutcomeUnknown, ErrOutcomeUnknown, false}} {
		db, s, l := newTestDB(t, DBConfig{ChunkRetry: time.Millisecond})
		l.hook = func(cmd []byte) error {
			if commandKind(cmd[1]) == commandSeal {
				return c.refusal
			}
			return nil
		}
		_, err := db.Put(t.Context(), PutRequest{Key: "k", Body: bytes.NewReader(make([]byte, ChunkBytes+1)), Size: -1})
		if !errors.Is(err, c.want) {
			t.Errorf("the seal is answered with %v: %v", c.refusal, err)
		}
		if n := l.count(commandAbandon); n > 0 != c.dropped || c.dropped && s.Stats().OpenUploads > 0 {
			t.Errorf("the seal is answered with %v: %d are dropped, %d open", c.refusal, n, s.Stats().OpenUploads)
		}
	}
}

// An upload that was dropped meanwhile may be put again at once; a value that came
// damaged is no reason to.
func TestPutResult_OfRefusals(t *testing.T) {
	t.Parallel()
	for refusal, again := range map[error]bool{ErrUploadIncomplete: true, ErrValueDamaged: false, errMalformedCommand: false} {
		var n newPut
		n.settle(fmt.Errorf("some command: %w", refusal), nil)
		_, err := n.result()
		if !errors.Is(err, refusal) || errors.Is(err, ErrUnavailable) != again || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("%v: %v", refusal, err)
		}
	}
}

// Only what was dropped is said to be, and a round ends with the first proposal that
// was not taken.
func TestDB_Run_SaysWhatItDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said bytes.Buffer
		db, s, l := newTestDB(t, DBConfig{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		for n := range byte(3) {
			if _, err := l.Propose(t.Context(), openCommand(uploadID{n + 1}, time.Now())); err != nil {
				t.Fatal(err)
			}
		}
		asked := 0
		l.hook = func([]byte) error { asked++; return ErrUnavailable }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- db.Run(ctx) }()
		time.Sleep(db.cfg.UploadIdle + db.cfg.SweepInterval + time.Second)
		synctest.Wait()
		if said.Len() > 0 || asked != 1 || s.Stats().OpenUploads != 3 {
			t.Errorf("%d are open, asked %d times, said %q", s.Stats().OpenUploads, asked, said.String())
		}
		l.mu.Lock()
		l.hook = nil
		l.mu.Unlock()
		time.Sleep(db.cfg.SweepInterval)
		synctest.Wait()
		if n := strings.Count(said.String(), "idle upload dropped"); n != 3 || s.Stats().OpenUploads != 0 {
			t.Errorf("%d are open, said %q", s.Stats().OpenUploads, said.String())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
