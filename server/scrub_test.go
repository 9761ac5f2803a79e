package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// scrubbed is a node's store as a scrubber sees it.
type scrubbed struct {
	dir   string
	size  int64
	takes time.Duration
	found error

	begun, ended []time.Time
	rate         int64
}

func (s *scrubbed) scrubber(interval time.Duration) *scrubber {
	read := func(ctx context.Context, rate int64, progress func(done, total int64)) error {
		s.begun, s.rate = append(s.begun, time.Now()), rate
		for i := range int64(4) {
			progress(i, 4)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(s.takes / 4):
			}
		}
		s.ended = append(s.ended, time.Now())
		return s.found
	}
	return newScrubber(s.dir, interval, func() int64 { return s.size }, read, slog.New(slog.DiscardHandler))
}

// during runs a scrubber for a while, then stops it as a restart would.
func (s *scrubbed) during(t *testing.T, interval, long time.Duration) *scrubber {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	c := s.scrubber(interval)
	if err := c.run(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// Everything is read within one interval of the last end, or of the first start, however
// often the node restarts.
func TestScrubber_EveryInterval(t *testing.T) {
	for _, life := range []time.Duration{31 * time.Hour, 24 * 365 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			const interval = 168 * time.Hour
			s := &scrubbed{dir: t.TempDir(), takes: time.Hour}
			start := time.Now()
			for time.Since(start) < 365*24*time.Hour {
				s.during(t, interval, life)
			}
			last := start
			for i, at := range s.ended {
				if d := at.Sub(last); d > interval+s.takes { // one may have begun just before the process stopped
					t.Errorf("scrub %d ends %v after the one before", i, d)
				}
				last = at
			}
			if n := len(s.ended); n < 52 || n > 108 {
				t.Errorf("%d scrubs in a year", n)
			}
		})
	}
}

// A scrub that a restart interrupts begins again at the next start.
func TestScrubber_Interrupted_BeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scrubbed{dir: t.TempDir(), takes: time.Hour}
		if c := s.during(t, 10*time.Hour, 10*time.Hour+30*time.Minute); len(s.begun) == 0 {
			t.Fatalf("%+v", c.last())
		}
		s.takes = 100 * time.Hour
		n := len(s.begun)
		s.during(t, 10*time.Hour, 10*time.Hour)
		if len(s.begun) != n+1 {
			t.Fatalf("%d scrubs, want one more than %d", len(s.begun), n)
		}
		again := time.Now()
		s.during(t, 10*time.Hour, time.Minute)
		if at := s.begun[len(s.begun)-1]; len(s.begun) != n+2 || !at.Equal(again) {
			t.Errorf("%d scrubs, the last at %v; want one more at %v", len(s.begun), at, again)
		}
	})
}

// The rate is a twentieth of a disk's, or what it takes to finish within half of the
// interval.
func TestScrubber_Rate(t *testing.T) {
	for _, c := range []struct{ size, rate int64 }{{1 << 30, 20 << 20}, {3600 << 20, 20 << 20}, {1 << 40, 2 << 40 / 3600}} {
		synctest.Test(t, func(t *testing.T) {
			s := &scrubbed{dir: t.TempDir(), size: c.size}
			s.during(t, time.Hour, time.Hour+time.Second)
			if s.rate != c.rate {
				t.Errorf("%d bytes are read at %d a second, want %d", c.size, s.rate, c.rate)
			}
		})
	}
}

// status follows a scrub, and the next process knows what it found.
func TestScrubber_Figures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scrubbed{dir: t.TempDir(), takes: 40 * time.Minute}
		c := s.scrubber(time.Hour)
		if f := c.status(); f != (api.Scrub{}) {
			t.Errorf("before all: %+v", f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.run(ctx) }()
		synctest.Wait()
		time.Sleep(time.Until(c.last().Due) + 25*time.Minute)
		if f := c.status(); !f.Running || f.Fraction != .5 || f.LastEnd != nil || f.LastResult != "" {
			t.Errorf("in the middle: %+v", f)
		}
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		end := time.Now()
		for _, c := range []*scrubber{c, s.scrubber(time.Hour)} {
			if f := c.status(); f.Running || f.Fraction != 0 || f.LastEnd == nil || !f.LastEnd.Equal(end) || f.LastTookSeconds != 2400 || f.LastResult != api.ScrubOK {
				t.Errorf("at the end: %+v", f)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Damage ends run and appears in status, and the next process scrubs at once.
func TestScrubber_Damage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		damage := errors.New("00000001.values is damaged")
		s := &scrubbed{dir: t.TempDir(), found: damage}
		if err := s.scrubber(time.Hour).run(t.Context()); !errors.Is(err, damage) {
			t.Fatalf("it ended with %v", err)
		}
		c := s.scrubber(time.Hour)
		if f := c.status(); !strings.Contains(f.LastResult, damage.Error()) || f.LastEnd == nil {
			t.Errorf("%+v", f)
		}
		restarted := time.Now()
		if err := c.run(t.Context()); !errors.Is(err, damage) || !time.Now().Equal(restarted) {
			t.Errorf("after %v it ended with %v", time.Since(restarted), err)
		}
	})
}

// If damage stops the store, and the store the node, before the scrubber sees its own
// result, the damage is still logged as the scrub's, returned, and known to the next
// process.
func TestScrubber_Damage_StoreStopsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, damage := t.TempDir(), &kvstore.CorruptError{File: "00000001.values", Offset: 4096, Detail: "a body does not have its digest"}
		ctx, cancel := context.WithCancel(t.Context())
		read := func(context.Context, int64, func(done, total int64)) error {
			cancel()
			return damage
		}
		var log bytes.Buffer
		c := newScrubber(dir, time.Hour, func() int64 { return 0 }, read, slog.New(slog.NewTextHandler(&log, nil)))
		if err := c.run(ctx); !errors.Is(err, damage) {
			t.Errorf("it ended with %v", err)
		}
		if s := log.String(); !strings.Contains(s, "scrub found damage") || !strings.Contains(s, damage.File) {
			t.Errorf("the log does not say what the scrub found: %s", s)
		}
		if f := (&scrubbed{dir: dir}).scrubber(time.Hour).status(); !strings.Contains(f.LastResult, damage.File) {
			t.Errorf("the next process knows %+v", f)
		}
	})
}

// A negative interval means never. A shorter interval, a wrong clock and an unreadable note
// delay nothing.
func TestScrubber_Plans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scrubbed{dir: t.TempDir()}
		if s.during(t, -1, 1000*time.Hour); len(s.begun) != 0 {
			t.Errorf("%d scrubs, want none", len(s.begun))
		}
		s.during(t, 10_000*time.Hour, time.Second)
		if s.during(t, time.Hour, time.Hour+time.Second); len(s.begun) == 0 {
			t.Error("no scrub within the shorter interval")
		}
		path := filepath.Join(s.dir, scrubFile)
		for _, b := range [][]byte{nil, []byte("{"), bytes.Repeat([]byte("x"), 1<<20)} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			n := len(s.begun)
			if s.during(t, time.Hour, time.Hour+time.Second); len(s.begun) == n {
				t.Errorf("no scrub after a note of %d bytes", len(b))
			}
		}
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		n := len(s.begun)
		if s.during(t, time.Hour, time.Hour+time.Second); len(s.begun) == n {
			t.Error("no scrub where no note can be kept")
		}
	})
}
