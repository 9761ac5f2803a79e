package kvstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
)

// wantAllFree fails unless all memory and every place for bodies is given back.
func wantAllFree(t *testing.T, db *DB) {
	t.Helper()
	fresh := newIntake(db.cfg.InFlightBytes, 0)
	pairs := map[string][2]*budget.Budget{"small": {db.intake.small, fresh.small}, "many": {db.intake.many, fresh.many}, "uploads": {db.intake.uploads, fresh.uploads}}
	for i := range intakeSteps {
		pairs["step "+string('0'+rune(i))] = [2]*budget.Budget{db.intake.steps[i], fresh.steps[i]}
	}
	for name, p := range pairs {
		if got, want := p[0].Free(), p[1].Free(); got != want {
			t.Errorf("%s: %d of %d are free", name, got, want)
		}
	}
}

// slowBody is a body of which some bytes come, and then none until it is
// interrupted.
type slowBody struct {
	some     io.Reader
	once     sync.Once
	over     chan struct{}
	silent   chan struct{} // closed when the bytes are through
	silenced sync.Once
}

func newSlowBody(some string) *slowBody {
	return &slowBody{some: strings.NewReader(some), over: make(chan struct{}), silent: make(chan struct{})}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if n, err := b.some.Read(p); err == nil {
		return n, nil
	}
	b.silenced.Do(func() { close(b.silent) })
	<-b.over
	return 0, os.ErrDeadlineExceeded
}

func (b *slowBody) interrupt() { b.once.Do(func() { close(b.over) }) }

// TestDB_Put_SlowBodies: puts whose bodies stall, after none or some of the bytes
// that they announce, keep no other put from being made, whatever its size; and
// those that hold what others need are interrupted.
func TestDB_Put_SlowBodies(t *testing.T) {
	t.Parallel()
	const slow = 100
	for name, some := range map[string]string{
		"nothing came":   "",
		"little came":    "some",
		"half a chunk":   strings.Repeat("x", ChunkBytes/2),
		"a chunk":        strings.Repeat("x", ChunkBytes),
		"a bit more":     strings.Repeat("x", ChunkBytes+1),
		"small, nothing": "small",
	} {
		t.Run(name, func(t *testing.T) {
			db, s, _ := newTestDB(t, DBConfig{InFlightBytes: 16 << 20, BodyGrace: time.Millisecond, InFlightWait: patience})
			stop := startRun(t, s)
			defer stop()
			size := int64(1 << 30)
			if some == "small" {
				some, size = "", smallPutBytes
			}
			var puts sync.WaitGroup
			var bodies []*slowBody
			for i := range slow {
				b := newSlowBody(some)
				bodies = append(bodies, b)
				puts.Go(func() {
					r := PutRequest{Key: Key("slow" + string(rune('a'+i))), Body: b, Size: size, From: "slow", Interrupt: b.interrupt}
					if _, err := db.Put(context.Background(), r); !errors.Is(err, ErrBodyRead) {
						t.Errorf("a slow put: %v", err)
					}
				})
			}
			for _, b := range bodies {
				select {
				case <-b.silent:
				case <-b.over:
				}
			}
			for key, n := range map[Key]int{"tiny": 1, "small": smallPutBytes, "medium": ChunkBytes, "large": 5*ChunkBytes + 1} {
				body := bytes.NewReader(bytes.Repeat([]byte{'v'}, n))
				if r, err := db.Put(t.Context(), PutRequest{Key: key, Body: body, Size: int64(n)}); err != nil || r.Outcome != Created {
					t.Errorf("%s: %+v, %v", key, r, err)
				}
			}
			for _, b := range bodies {
				b.interrupt()
			}
			puts.Wait()
			wantAllFree(t, db)
		})
	}
}

// hook is a reader of nothing that does something when it is read.
type hook func()

func (h hook) Read([]byte) (int, error) {
	h()
	return 0, io.EOF
}

// TestDB_Put_SlowLoser: a put that lost while it was under way gives its place up
// to others like any, if the rest of its body, which is only compared, stalls.
func TestDB_Put_SlowLoser(t *testing.T) {
	t.Parallel()
	db, s, _ := newTestDB(t, DBConfig{BodyGrace: time.Millisecond, InFlightWait: patience})
	stop := startRun(t, s)
	defer stop()
	db.intake.uploads = budget.New(1)
	wins := hook(func() {
		if _, err := db.Put(t.Context(), PutRequest{Key: "k", Body: strings.NewReader("v"), Size: 1}); err != nil {
			t.Error(err)
		}
	})
	b := newSlowBody("")
	b.some = io.MultiReader(strings.NewReader(strings.Repeat("x", ChunkBytes)), wins, strings.NewReader("x"))
	lost := make(chan error, 1)
	go func() {
		_, err := db.Put(context.Background(), PutRequest{Key: "k", Body: b, Size: 1 << 30, Interrupt: b.interrupt})
		lost <- err
	}()
	<-b.silent
	if r, err := db.Put(t.Context(), PutRequest{Key: "other", Body: strings.NewReader("v"), Size: -1}); err != nil || r.Outcome != Created {
		t.Errorf("%+v, %v", r, err)
	}
	b.interrupt()
	if err := <-lost; !errors.Is(err, ErrBodyRead) {
		t.Error(err)
	}
}

// TestDB_Put_HoldsWhatArrived: what is announced takes no memory.
func TestDB_Put_HoldsWhatArrived(t *testing.T) {
	t.Parallel()
	for some, holds := range map[int]int64{0: 16 << 10, 1: 16 << 10, 16<<10 + 1: 64 << 10, 200 << 10: 256 << 10, 300 << 10: ChunkBytes} {
		db, _, _ := newTestDB(t, DBConfig{})
		before := freeSteps(db)
		b := newSlowBody(strings.Repeat("x", some))
		done := make(chan error, 1)
		go func() {
			_, err := db.Put(context.Background(), PutRequest{Key: "k", Body: b, Size: 1 << 30})
			done <- err
		}()
		<-b.silent
		if held := before - freeSteps(db); held != holds {
			t.Errorf("%d bytes came, %d are held, want %d", some, held, holds)
		}
		b.interrupt()
		if err := <-done; !errors.Is(err, ErrBodyRead) {
			t.Error(err)
		}
		wantAllFree(t, db)
	}
}

func freeSteps(db *DB) (n int64) {
	for _, b := range db.intake.steps {
		n += b.Free()
	}
	return n
}
