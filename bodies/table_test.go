package bodies

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/internal/writefault"
)

var errPower = errors.New("the power is gone")

// disk is a directory of which it is known what is durable: the content of a file as it
// was at its last fsync, under the names that it had at the last fsync of the directory.
type disk struct {
	dir   string
	files map[uint64][]byte // by inode
	names map[string]uint64

	steps int // fsyncs so far
	cut   int // the power goes in this one; 0: never
	after bool
	image map[string][]byte // what was left then
	wrote map[string][]byte // what would be left had only the process been killed
}

func newDisk(dir string) *disk {
	return &disk{dir: dir, files: map[uint64][]byte{}, names: map[string]uint64{}}
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

func (d *disk) sync(path string) error {
	if d.image != nil {
		return errPower
	}
	d.steps++
	if d.steps == d.cut && !d.after {
		return d.powerCut()
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		clear(d.names)
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			d.names[e.Name()] = inode(info)
		}
	} else {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d.files[inode(info)] = data
	}
	if d.steps == d.cut {
		return d.powerCut()
	}
	return nil
}

func (d *disk) powerCut() error {
	d.image, d.wrote = map[string][]byte{}, map[string][]byte{}
	for name, ino := range d.names {
		d.image[name] = d.files[ino]
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if d.wrote[e.Name()], err = os.ReadFile(filepath.Join(d.dir, e.Name())); err != nil {
			return err
		}
	}
	return errPower
}

func restore(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// kill ends a store as the end of the process does.
func kill(s *Store) {
	_ = s.fail(ErrClosed)
	_ = s.closeFiles()
}

// model is what a store must know, and the history that counts its bodies.
type model struct {
	r       *rand.Rand
	now     time.Time
	data    map[Digest][]byte
	list    []Digest // of data, in the order of their making
	synced  map[Digest]bool
	maybe   map[Digest]bool // was forgotten, or may have been
	counts  map[Digest]int
	history [][]Change
	flushed uint64 // the mark that is durable at least
}

func newModel(seed uint64) *model {
	return &model{r: rand.New(rand.NewPCG(seed, 14)), now: time.Unix(0, 0), data: map[Digest][]byte{},
		synced: map[Digest]bool{}, maybe: map[Digest]bool{}, counts: map[Digest]int{}}
}

func (m *model) config(dir string) Config {
	return Config{Dir: dir, SegmentBytes: 64 << 10, TableRows: 8, Now: func() time.Time { return m.now }, Sync: func(string) error { return nil }}
}

func head(revision int) (h [32]byte) {
	binary.BigEndian.PutUint64(h[:], uint64(revision))
	return h
}

func (m *model) mark(revision int) Mark {
	if revision == 0 {
		return Mark{}
	}
	return Mark{uint64(revision), head(revision)}
}

// step does something to the store; an error is that of the store.
func (m *model) step(ctx context.Context, s *Store) error {
	m.now = m.now.Add(time.Second)
	switch k := m.r.IntN(100); {
	case k < 45 || len(m.list) == 0:
		b := testBody(m.r, 1+m.r.IntN(9_000))
		if len(m.list) > 0 && m.r.IntN(4) == 0 {
			b.Digest = m.list[m.r.IntN(len(m.list))]
			b.Data = m.data[b.Digest]
		}
		if m.data[b.Digest] == nil {
			m.data[b.Digest] = b.Data
			m.list = append(m.list, b.Digest)
		}
		added, err := s.Append(b.Digest, b.Data)
		if added {
			delete(m.synced, b.Digest)
		}
		if err != nil {
			return err
		}
		delete(m.maybe, b.Digest)
		if m.r.IntN(3) > 0 {
			return nil
		}
		fallthrough
	case k < 50:
		if err := s.Sync(ctx); err != nil {
			return err
		}
		for d := range m.data {
			if !m.maybe[d] {
				m.synced[d] = true
			}
		}
	case k < 80:
		var changes []Change
		for range 1 + m.r.IntN(6) {
			d := m.list[m.r.IntN(len(m.list))]
			if m.counts[d] > 0 && m.r.IntN(2) == 0 {
				changes = append(changes, Change{d, -1})
				m.counts[d]--
			} else if m.synced[d] && !m.maybe[d] {
				changes = append(changes, Change{d, 1})
				m.counts[d]++
			}
		}
		m.history = append(m.history, changes)
		return s.Count(changes, m.mark(len(m.history)))
	case k < 85:
		return s.mergeRuns(ctx, &pacer{})
	case k < 90:
		if err := s.Checkpoint(ctx); err != nil {
			return err
		}
		m.flushed = uint64(len(m.history))
	case k < 92:
		m.flushed = 0
		resume := s.Pause()
		defer resume()
		if err := s.Recount(); err != nil {
			return err
		}
		return m.recover(s)
	case k < 96:
		if err := s.sweep(ctx); err != nil {
			return err
		}
		fallthrough
	default:
		m.now = m.now.Add(time.Minute)
		for d := range m.data {
			if m.counts[d] == 0 {
				m.maybe[d] = true
			}
		}
		return s.Reclaim()
	}
	return nil
}

// rewrite leaves those references in the history that are still there: a history that
// is counted from its start does not know of others.
func (m *model) rewrite() {
	m.history = make([][]Change, len(m.history))
	for _, d := range m.list {
		for range m.counts[d] {
			i := m.r.IntN(len(m.history))
			m.history[i] = append(m.history[i], Change{d, 1})
		}
	}
}

// recover counts what the store has not.
func (m *model) recover(s *Store) error {
	at := s.Mark()
	if at.Revision == 0 {
		m.rewrite()
	}
	if at != m.mark(int(at.Revision)) || at.Revision > uint64(len(m.history)) || at.Revision < m.flushed {
		return fmt.Errorf("the mark is %v, of %d revisions; at least %d were durable", at, len(m.history), m.flushed)
	}
	for i := int(at.Revision); i < len(m.history); i++ {
		if err := s.Count(m.history[i], m.mark(i+1)); err != nil {
			return err
		}
	}
	return s.Counted()
}

// check compares all that is in a store.
func (m *model) check(s *Store) error {
	for _, d := range m.list {
		s.mu.Lock()
		r, err := s.find(d)
		count := 0
		if r != nil {
			count = r.count
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if count != m.counts[d] {
			return fmt.Errorf("%d records refer to %s, the store says %d", m.counts[d], d, count)
		}
		got, err := s.Read(d, nil)
		switch {
		case err == nil && !bytes.Equal(got, m.data[d]):
			return fmt.Errorf("%s has other bytes", d)
		case err != nil && !errors.Is(err, ErrMissing):
			return err
		case err != nil && m.synced[d] && !m.maybe[d]:
			return fmt.Errorf("%s (%d records) is lost", d, m.counts[d])
		}
	}
	return checkFigures(s)
}

// checkFigures compares what the table knows of its rows with the rows.
func checkFigures(s *Store) error {
	s.table.writing.Lock()
	defer s.table.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.table
	want := map[uint32]figures{}
	var idling, live int64
	dirty, idle, cached := 0, 0, 0
	add := func(at place, count int) {
		f := want[at.segment]
		f.bodies++
		f.bytes += frameBytes(at.size)
		if count > 0 {
			f.counted += frameBytes(at.size)
			live += frameBytes(at.size)
		}
		want[at.segment] = f
	}
	for d, r := range t.mem {
		if r.digest != d {
			return errors.New("a row is under another digest")
		}
		if r.changed != 0 {
			dirty++
		}
		if r.gone() {
			continue
		}
		add(r.place, r.count)
		if r.count == 0 {
			idling += frameBytes(r.place.size)
			if r.holds == 0 {
				idle++
				if t.idle[d] != r {
					return errors.New("nobody needs a body, and nobody knows that")
				}
			} else {
				live += frameBytes(r.place.size)
			}
		} else if r.changed == 0 && r.holds == 0 {
			cached++
			if t.cached[d] != r {
				return errors.New("a row that could leave memory stays for ever")
			}
		}
	}
	in, err := newRunsReader(t.runs, Digest{}, t.epoch)
	if err != nil {
		return err
	}
	for {
		r, ok, err := in.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if t.mem[r.digest] == nil && !r.gone() {
			add(r.place, r.count)
		}
	}
	for n, seg := range s.segments {
		f := want[n]
		f.covered = seg.covered
		if f != seg.figures || f.covered > seg.size() {
			return fmt.Errorf("segment %d of %d bytes has %+v, the table says %+v", n, seg.size(), f, seg.figures)
		}
		delete(want, n)
	}
	if len(want) > 0 || idling != t.idling || dirty != len(t.dirty) || idle != len(t.idle) || cached != len(t.cached) || live != s.live {
		return fmt.Errorf("rows %v idle %d=%d dirty %d=%d idle %d=%d cached %d=%d live %d=%d", want, idling, t.idling, dirty, len(t.dirty), idle, len(t.idle), cached, len(t.cached), live, s.live)
	}
	return nil
}

// After random steps, kills, closes, and losses of the table a store knows what it must.
func TestTable_Model(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newModel(seed)
			cfg := m.config(t.TempDir())
			s, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { kill(s) }()
			for i := range 500 {
				if err := m.step(t.Context(), s); err != nil {
					t.Fatal(i, err)
				}
				if len(s.table.mem) > 6*cfg.TableRows {
					t.Fatal("rows in memory:", len(s.table.mem))
				}
				if m.r.IntN(25) > 0 {
					continue
				}
				if err := m.check(s); err != nil {
					t.Fatal(i, err)
				}
				if m.r.IntN(2) == 0 {
					kill(s)
				} else if err := s.Close(); err != nil {
					t.Fatal(i, err)
				} else {
					m.flushed = uint64(len(m.history))
				}
				switch m.r.IntN(6) {
				case 0:
					m.flushed = 0
					if err := os.Remove(filepath.Join(cfg.Dir, manifestName)); err != nil {
						t.Fatal(err)
					}
				case 1:
					if names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+runSuffix)); len(names) > 0 {
						m.flushed = 0
						if err := os.Remove(names[m.r.IntN(len(names))]); err != nil {
							t.Fatal(err)
						}
					}
				}
				for _, d := range m.list { // what was not synced is not needed by anybody
					if !m.synced[d] {
						m.maybe[d] = true
					}
				}
				if s, err = Open(cfg); err != nil {
					t.Fatal(i, err)
				}
				if err := m.recover(s); err != nil {
					t.Fatal(i, err)
				}
				if err := m.check(s); err != nil {
					t.Fatal(i, "opened again:", err)
				}
			}
		})
	}
}

// Whichever fsync the power goes in, or the process ends in, the next start knows what
// was durable before. Every other one has done its work by then.
func TestTable_Crash(t *testing.T) {
	run := func(t *testing.T, cut int, after bool) (*model, *disk) {
		m := newModel(7)
		cfg := m.config(t.TempDir())
		d := newDisk(cfg.Dir)
		d.cut, d.after = cut, after
		cfg.Sync = d.sync
		s, err := Open(cfg)
		for i := 0; i < 120 && err == nil; i++ {
			err = m.step(t.Context(), s)
		}
		if err != nil && !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		if s != nil {
			kill(s)
		}
		return m, d
	}
	_, whole := run(t, 0, false)
	if whole.steps < 80 {
		t.Fatalf("only %d fsyncs", whole.steps)
	}
	cuts := 0
	for cut := 1; cut <= whole.steps; cut++ {
		after := cut%2 == 0
		m, d := run(t, cut, after)
		if d.image == nil { // which rows leave memory is not the same each time
			continue
		}
		cuts++
		for what, image := range map[string]map[string][]byte{"power": d.image, "process": d.wrote} {
			k := *m
			k.counts, k.maybe = maps.Clone(m.counts), maps.Clone(m.maybe)
			s, err := Open(k.config(restore(t, image)))
			if err == nil {
				if err = k.recover(s); err == nil {
					err = k.check(s)
				}
				kill(s)
			}
			if err != nil {
				t.Fatalf("%s lost in fsync %d (after it: %v): %v", what, cut, after, err)
			}
		}
	}
	if cuts < whole.steps*3/4 {
		t.Errorf("%d cuts in about %d fsyncs", cuts, whole.steps)
	}
}

// A damaged byte anywhere in the table is never a wrong answer: the table is made anew
// at once, or the store ends and the next start does it.
func TestTable_Damage(t *testing.T) {
	m := newModel(3)
	cfg := m.config(t.TempDir())
	cfg.TableRows = 100
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for s.table.version < 4 {
		if err := m.step(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(cfg.Dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	ended, anew, tried := 0, 0, 0
	for name, data := range files {
		if filepath.Ext(name) == segmentSuffix {
			continue
		}
		for at := m.r.IntN(50); at < len(data); at += 1 + m.r.IntN(200) {
			tried++
			bad := maps.Clone(files)
			if bad[name] = slices.Clone(data); tried%10 == 0 {
				bad[name] = bad[name][:at]
			} else {
				bad[name][at] ^= 1 << m.r.IntN(8)
			}
			dir := restore(t, bad)
			for i := 0; ; i++ {
				k := *m
				k.flushed = 0
				s, err := Open(k.config(dir))
				if err != nil {
					t.Fatalf("%s at %d: %v", name, at, err)
				}
				if s.Mark() == (Mark{}) {
					anew++
				}
				if err = k.recover(s); err == nil {
					err = k.check(s)
				}
				kill(s)
				if err == nil {
					break
				}
				if !errors.As(err, new(*DamageError)) || i > 0 {
					t.Fatalf("%s at %d: %v", name, at, err)
				}
				ended++
			}
		}
	}
	if tried < 50 || ended == 0 || anew < tried*9/10 {
		t.Errorf("of %d damaged bytes %d made the table anew, %d after the store had ended", tried, anew, ended)
	}
}

// A full disk ends nothing: rows stay in memory, then no more bodies come, and when there
// is room again all are there.
func TestTable_DiskFull(t *testing.T) {
	m := newModel(1)
	cfg := m.config(t.TempDir())
	full := false
	cfg.Sync = func(path string) error {
		if full && filepath.Ext(path) == runSuffix {
			return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
		}
		return nil
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	full = true
	var list []Body
	for len(list) < 100 {
		b := testBody(m.r, 100)
		if _, err = s.Append(b.Digest, b.Data); err != nil {
			break
		}
		list = append(list, b)
	}
	if !errors.Is(err, syscall.ENOSPC) || s.Err() != nil || len(list) != 2*cfg.TableRows {
		t.Fatal(len(list), err, s.Err())
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Count([]Change{{list[0].Digest, 1}}, m.mark(1)); !errors.Is(err, syscall.ENOSPC) || s.Mark() != m.mark(0) {
		t.Error(err)
	}
	m.now = m.now.Add(time.Minute)
	if err := s.Reclaim(); err != nil || s.Stats().ReclaimedBytes != 0 {
		t.Error("room was given back before that was durable", err)
	}
	if names, _ := filepath.Glob(filepath.Join(cfg.Dir, "*"+runSuffix)); len(names) > 0 {
		t.Error("left behind:", names)
	}
	full = false
	m.now = m.now.Add(time.Minute)
	for _, b := range list {
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if !s.Has(b.Digest) {
			t.Error("lost")
		}
	}
	if err := checkFigures(s); err != nil {
		t.Error(err)
	}
}

// What the table on disk still has is not given back, as long as it has it: after a full
// disk and a crash all that counts is there.
func TestTable_MovedNotFlushed(t *testing.T) {
	for range 5 { // which segment is copied, and which is looked through first, is not the same each time
		t.Run("", movedNotFlushed)
	}
}

func movedNotFlushed(t *testing.T) {
	m := newModel(1)
	cfg := m.config(t.TempDir())
	cfg.TableRows = 1000
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	add := func() Digest {
		b := testBody(m.r, 9000)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		m.data[b.Digest] = b.Data
		return b.Digest
	}
	var kept []Change
	for i := range 60 {
		if d := add(); i%4 == 0 {
			kept = append(kept, Change{d, 1})
		}
	}
	if err := s.Count(kept, m.mark(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	full := false
	cfg.Sync = func(path string) error {
		if full && filepath.Ext(path) == runSuffix {
			return &fs.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
		}
		return nil
	}
	cfg.step = func(name string) {
		if name == "move" && !full { // the copies are written; something else is flushed behind them
			d := add()
			if err := s.Checkpoint(t.Context()); err != nil || !s.Hold(d) {
				t.Error(err)
			}
			full = true
		}
	}
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		m.now = m.now.Add(time.Minute)
		if err := s.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
	}
	if !full || s.Err() != nil {
		t.Fatal("nothing was moved", s.Err())
	}
	kill(s)
	cfg.step, full = nil, false
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range kept {
		if got, err := s.Read(c.Digest, nil); err != nil || !bytes.Equal(got, m.data[c.Digest]) {
			t.Error(err)
		}
	}
}

// A flush whose fsync fails ends the store, and what the disk had stays.
func TestTable_FlushFails(t *testing.T) {
	for _, suffix := range []string{runSuffix, ".tmp", segmentSuffix} {
		m := newModel(1)
		cfg := m.config(t.TempDir())
		bad := false
		cfg.Sync = func(path string) error {
			if bad && filepath.Ext(path) == suffix {
				return syscall.EIO
			}
			return nil
		}
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := testBody(m.r, 100)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		bad = true
		if err := s.Checkpoint(t.Context()); !errors.Is(err, writefault.Err) || !errors.Is(s.Err(), writefault.Err) {
			t.Error(suffix, err)
		}
		bad = false
		if _, err := s.Append(b.Digest, b.Data); err == nil {
			t.Error("the store goes on")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The table on disk stays near: Run flushes it when much was appended or counted since,
// and whoever goes on does when Run does not.
func TestTable_FlushedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1)
		s, err := Open(m.config(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		count := func(revision uint64) {
			t.Helper()
			for range 2 {
				if err := s.Count(nil, Mark{Revision: revision}); err != nil {
					t.Fatal(err)
				}
			}
		}
		count(startRevisions)
		if s.table.flushedRevision != 0 {
			t.Error("flushed too soon")
		}
		count(2 * startRevisions)
		if s.table.flushedRevision != 2*startRevisions {
			t.Error("not flushed, and nobody runs")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		count(3 * startRevisions)
		synctest.Wait()
		if s.table.flushedRevision != 3*startRevisions {
			t.Error("not flushed after many revisions")
		}
		b := testBody(m.r, 100)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.table.uncovered += startBytes
		s.mu.Unlock()
		count(3*startRevisions + 1)
		synctest.Wait()
		if len(s.table.dirty) != 0 || s.table.uncovered != 0 {
			t.Error("not flushed after many bytes")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// After a clean end the next start reads no segment.
func TestTable_CleanClose(t *testing.T) {
	m := newModel(5)
	cfg := m.config(t.TempDir())
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if err := m.step(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	want := s.Stats()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synced := 0
	cfg.Sync = func(path string) error {
		if filepath.Ext(path) == segmentSuffix {
			synced++
		}
		return nil
	}
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := s.Stats()
	want.ReclaimedBytes, want.DeadBytes, got.DeadBytes = 0, 0, 0
	if synced > 0 || len(s.table.mem) > 0 || s.Mark() != m.mark(len(m.history)) || got != want {
		t.Errorf("%d segments read, %d rows in memory, mark %v, %+v for %+v", synced, len(s.table.mem), s.Mark(), got, want)
	}
}

// Without a table, what is behind a damaged header is found; what was given back, and
// what only looks like a body, is not.
func TestTable_MadeAnew(t *testing.T) {
	m := newModel(1)
	cfg := m.config(t.TempDir())
	cfg.SegmentBytes = 1 << 20
	var logged bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var list []Body
	var places []place
	add := func(b Body) {
		t.Helper()
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		r, err := s.find(b.Digest)
		s.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		list, places = append(list, b), append(places, r.place)
	}
	for range 2 {
		add(testBody(m.r, 30_000))
	}
	// Somebody's bytes look like a frame that is there, with a digest of another body.
	forged := testBody(m.r, 5000)
	victim := testBody(m.r, 5000)
	at := places[1].offset + frameBytes(30_000)
	inner := s.newest.frameHeader(victim.Digest, len(forged.Data), blockSums(forged.Data), at+int64(headerBytes(20_000))+1000)
	evil := testBody(m.r, 20_000)
	copy(evil.Data[1000:], append(inner, forged.Data...))
	evil.Digest = sha256.Sum256(evil.Data)
	add(evil)
	for range 3 {
		add(testBody(m.r, 30_000))
	}
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, b := range list {
		if i != 4 && !s.Hold(b.Digest) {
			t.Fatal("not held")
		}
	}
	m.now = m.now.Add(time.Minute)
	if err := s.Reclaim(); err != nil {
		t.Fatal(err)
	}
	path := s.newest.path
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, manifestName)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{places[2].offset + 20, places[5].offset + int64(headerBytes(30_000)) + 17} {
		if _, err := f.WriteAt([]byte("xyz"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	logged.Reset()
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, b := range list {
		if want := i < 2 || i == 3; s.Has(b.Digest) != want {
			t.Errorf("body %d is here: %v", i, !want)
		}
	}
	if s.Has(victim.Digest) {
		t.Error("a body that was never here is")
	}
	for _, what := range []string{"rebuilding the table", "bodies may be lost", "ignoring what follows"} {
		if !bytes.Contains(logged.Bytes(), []byte(what)) {
			t.Errorf("not told: %s\n%s", what, &logged)
		}
	}
	if err := checkFigures(s); err != nil {
		t.Error(err)
	}
}

// What was away while the table was made anew is there again when it is put back: nobody
// has found that table complete, and a start removes nothing.
func TestTable_MadeAnewWithoutASegment(t *testing.T) {
	m := newModel(1)
	cfg := m.config(t.TempDir())
	cfg.SegmentBytes = 1
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var list []Body
	for range 3 {
		b := testBody(m.r, 10_000)
		list = append(list, b)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	away := filepath.Join(t.TempDir(), "away")
	if err := errors.Join(os.Rename(segmentPath(cfg.Dir, 1), away), os.Remove(filepath.Join(cfg.Dir, manifestName))); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // the second start finds what the first has made
		if s, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if s.Has(list[0].Digest) || !s.Has(list[1].Digest) {
			t.Fatal(i, "the wrong bodies are here")
		}
		if err := s.Close(); err != nil { // without Counted: one was missing
			t.Fatal(err)
		}
	}
	if err := os.Rename(away, segmentPath(cfg.Dir, 1)); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, b := range list {
		if got, err := s.Read(b.Digest, nil); err != nil || !bytes.Equal(got, b.Data) {
			t.Errorf("body %d: %v", i, err)
		}
	}
}

// A segment that is missing or too short while the table needs it stops the start.
func TestTable_SegmentLost(t *testing.T) {
	for _, cut := range []bool{false, true} {
		m := newModel(1)
		cfg := m.config(t.TempDir())
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := testBody(m.r, 100)
		if _, err := s.Append(b.Digest, b.Data); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		path := segmentPath(cfg.Dir, 1)
		if cut {
			err = os.Truncate(path, 60)
		} else {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(cfg)
		if damage, ok := errors.AsType[*DamageError](err); !ok || damage.File != path {
			t.Error(cut, err)
		}
	}
}

// Digests that begin alike are found in whichever block they are.
func TestRun_EqualFences(t *testing.T) {
	dir := t.TempDir()
	w, err := createRun(dir, 1, 1, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	const n = 500
	digest := func(i int) (d Digest) {
		d[0] = byte(i / 300)
		binary.BigEndian.PutUint32(d[20:], uint32(2*i))
		return d
	}
	for i := range n {
		if err := w.add(stored{digest(i), place{1, int64(i), i + 1}, i}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	defer r.file.Close()
	var buf [runBlockBytes]byte
	for i := range n {
		d := digest(i)
		row, ok, err := r.find(d, buf[:])
		if err != nil || !ok || row.count != i || row.place.size != i+1 {
			t.Fatal(i, row, ok, err)
		}
		rd, err := newRunReader(r, d)
		if err != nil || !rd.ok || rd.row.digest != d {
			t.Fatal(i, err)
		}
		d[31] = 1
		if _, ok, err := r.find(d, buf[:]); ok || err != nil {
			t.Fatal(i, ok, err)
		}
	}
}

func TestRunsToMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var list []uint64 // the newest first
	most, written, rows := 0, uint64(0), uint64(0)
	for range 5000 {
		n := 1 + r.Uint64N(100)
		rows += n
		list = append([]uint64{n}, list...)
		for {
			from, to := runsToMerge(list, runsMost)
			if from == to {
				break
			}
			var sum uint64
			for _, n := range list[from:to] {
				sum += n
			}
			written += sum
			list = slices.Replace(list, from, to, sum)
		}
		most = max(most, len(list))
	}
	if most > runsMost || written > 8*rows {
		t.Errorf("up to %d runs; %d rows written %d times", most, rows, written)
	}
}

// Everybody at once.
func TestTable_Concurrent(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 64 << 10, TableRows: 16, Grace: time.Nanosecond, Round: time.Millisecond, Sync: func(string) error { return nil }}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var counting sync.Mutex
	revision := 0
	var work sync.WaitGroup
	for w := range 4 {
		work.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			shared := rand.New(rand.NewPCG(9, 9))
			for range 300 {
				b := testBody(shared, 1+shared.IntN(3000)) // all have the same
				if r.IntN(2) == 0 {
					b = testBody(r, 500)
				}
				for held := false; !held; {
					if _, err := s.Append(b.Digest, b.Data); err != nil {
						t.Error(err)
						return
					}
					if err := s.Sync(ctx); err != nil {
						t.Error(err)
						return
					}
					held = s.Hold(b.Digest)
				}
				counting.Lock()
				revision++
				err := s.Count([]Change{{b.Digest, 1}}, Mark{Revision: uint64(revision)})
				counting.Unlock()
				s.Release(b.Digest)
				if got, rerr := s.Read(b.Digest, nil); err != nil || rerr != nil || !bytes.Equal(got, b.Data) {
					t.Error(err, rerr)
				}
				if r.IntN(2) == 0 {
					counting.Lock()
					revision++
					err := s.Count([]Change{{b.Digest, -1}}, Mark{Revision: uint64(revision)})
					counting.Unlock()
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	cancel()
	all.Wait()
	if err := checkFigures(s); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// manyRows makes a store whose table has n rows, of bodies that are nowhere. A record
// refers to each.
func manyRows(tb testing.TB, n int) (*Store, func(i int) Digest) {
	s, err := Open(Config{Dir: tb.TempDir(), Grace: 1, Sync: func(string) error { return nil }})
	if err != nil {
		tb.Fatal(err)
	}
	s.appending.Lock()
	seg, err := s.segmentToAppend()
	s.appending.Unlock()
	if err != nil {
		tb.Fatal(err)
	}
	seg.length.Store(1 << 32)
	seg.synced.Store(1 << 32)
	digest := func(i int) Digest { return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))) }
	const perRun = 200_000
	for first := 0; first < n; first += perRun {
		var rows []stored
		for i := first; i < min(n, first+perRun); i++ {
			rows = append(rows, stored{digest(i), place{1, 64 + int64(i)*64, 1}, 1})
		}
		r, err := s.writeRun(s.table.last.nextRun, 1, rows)
		if err != nil {
			tb.Fatal(err)
		}
		s.table.last.nextRun++
		s.table.runs = append([]*run{r}, s.table.runs...)
		s.table.last.runs = append([]runInfo{r.runInfo}, s.table.last.runs...)
		seg.bodies += int64(len(rows))
	}
	seg.covered, seg.bytes, seg.counted = 64+64*int64(n), frameBytes(1)*int64(n), frameBytes(1)*int64(n)
	s.live = seg.counted
	if err := s.Count(nil, Mark{Revision: 1}); err != nil {
		tb.Fatal(err)
	}
	if err := s.Checkpoint(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s, digest
}

// The memory of a table of a million rows is bounded, also when nothing counts on any.
func TestTable_ManyRows(t *testing.T) {
	if testing.Short() {
		t.Skip("a million rows")
	}
	const n = 1_000_000
	heap := func() int64 {
		runtime.GC()
		var st runtime.MemStats
		runtime.ReadMemStats(&st)
		return int64(st.HeapAlloc)
	}
	before := heap()
	start := time.Now()
	s, digest := manyRows(t, n)
	defer s.Close()
	inMemory := func(what string) {
		t.Helper()
		if used, rows := heap()-before, len(s.table.mem); used > 30<<20 || rows > 4*defaultTableRows {
			t.Errorf("%s: %d rows in %d MiB of memory", what, rows, used>>20)
		} else {
			t.Logf("%s: %d rows in %d MiB of memory, %d runs, after %v", what, rows, used>>20, len(s.table.runs), time.Since(start))
		}
	}
	inMemory("written")
	for i := range n / 20 {
		if !s.Has(digest(i * 20)) {
			t.Fatal(i, s.Err())
		}
	}
	inMemory("looked up")
	for i := 0; i < n/10; i += 1000 {
		var changes []Change
		for k := range 1000 {
			changes = append(changes, Change{digest((i + k) * 10), 1})
		}
		if err := s.Count(changes, Mark{Revision: uint64(i + 2)}); err != nil {
			t.Fatal(err)
		}
	}
	inMemory("counted")
	if err := s.Recount(); err != nil {
		t.Fatal(err)
	}
	inMemory("counts forgotten")
	if st := s.Stats(); st.Bodies != n || st.LiveBytes != 0 {
		t.Errorf("%+v", st)
	}
	for range 4 {
		was := s.Stats().Bodies
		if err := s.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Reclaim(); err != nil {
			t.Fatal(err)
		}
		if err := s.mergeRuns(t.Context(), &pacer{}); err != nil {
			t.Fatal(err)
		}
		if now := s.Stats().Bodies; now > was-defaultTableRows/2 {
			t.Fatal("of", was, "bodies remain", now)
		}
	}
	inMemory("many forgotten")
	if err := checkFigures(s); err != nil {
		t.Error(err)
	}
}

func BenchmarkTable_Lookup(b *testing.B) {
	const n = 1_000_000
	s, digest := manyRows(b, n)
	defer s.Close()
	r := rand.New(rand.NewPCG(1, 1))
	for _, absent := range []int{0, n} {
		b.Run(fmt.Sprintf("absent=%v", absent > 0), func(b *testing.B) {
			for b.Loop() {
				if s.Has(digest(absent+r.IntN(n))) == (absent > 0) {
					b.Fatal(s.Err())
				}
			}
		})
	}
}
