package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// model is the plain form of the state machine: maps and slices, no disk.
type model struct {
	keys    map[Key]modelValue
	order   []Key
	derived derived
	digests []Digest              // digests[r] is the history digest at revision r
	uploads map[uploadID][][]byte // their chunks
	sealed  map[uploadID]bool
}

type modelValue struct {
	meta  Meta
	value []byte
}

func newModel() *model {
	return &model{
		keys: make(map[Key]modelValue), digests: []Digest{sumOf(nil)},
		uploads: make(map[uploadID][][]byte), sealed: make(map[uploadID]bool),
	}
}

// apply returns what Store.Apply must answer to each command of an entry;
// errUnwanted stands for any error value.
func (m *model) apply(t testing.TB, commands [][]byte) []any {
	t.Helper()
	var results []any
	for _, raw := range commands {
		cmd, err := decodeCommand(raw)
		if err != nil {
			results = append(results, err)
			continue
		}
		results = append(results, m.applyOne(&cmd))
	}
	return results
}

func (m *model) applyOne(cmd *command) any {
	switch cmd.kind {
	case commandPut:
		return m.set(cmd, cmd.body.value)
	case commandRefer:
		return m.set(cmd, testBody(cmd.ref.Digest))
	case commandSeal:
		var value []byte
		parts := m.uploads[cmd.upload]
		delete(m.uploads, cmd.upload)
		if _, set := m.keys[Key(cmd.body.key)]; !set {
			value = slices.Concat(parts...)
			if len(parts) != int(cmd.body.chunks) || int64(len(value)) != cmd.body.size {
				return ErrUploadIncomplete
			}
			if sumOf(value) != cmd.body.sum {
				return ErrValueDamaged
			}
			m.sealed[cmd.upload] = true
		}
		return m.set(cmd, value)
	case commandOpen:
		if m.sealed[cmd.upload] {
			return ErrUploadIncomplete
		}
		m.uploads[cmd.upload] = append([][]byte{}, m.uploads[cmd.upload]...)
		return OpenResult{}
	case commandChunk:
		parts, open := m.uploads[cmd.upload]
		switch n := len(parts); {
		case !open:
			return ErrUploadIncomplete
		case int(cmd.number) > n:
			return errChunkOrder
		case int(cmd.number) == n && n > 0 && len(parts[n-1]) < ChunkBytes:
			return ErrUploadIncomplete
		case int(cmd.number) == n:
			m.uploads[cmd.upload] = append(parts, testBody(cmd.ref.Digest))
		}
		return ChunkResult{}
	}
	_, open := m.uploads[cmd.upload]
	delete(m.uploads, cmd.upload)
	return AbandonResult{Dropped: open}
}

func (m *model) set(cmd *command, value []byte) any {
	b := &cmd.body
	if old, set := m.keys[Key(b.key)]; set {
		switch {
		case !bytes.Equal(old.value, value) && cmd.kind != commandSeal, old.meta.SHA256 != b.sum:
			return PutResult{Conflict, old.meta}
		case old.meta.PutID == b.putIDString():
			return PutResult{Created, old.meta}
		}
		return PutResult{Unchanged, old.meta}
	}
	meta := Meta{
		Key: Key(b.key), Revision: Revision(len(m.order) + 1), Size: int64(len(value)), SHA256: sha256.Sum256(value),
		ContentType: b.contentTypeString(), Time: time.Unix(0, b.time).UTC(), PutID: b.putIDString(),
		By: string(b.by), UserMeta: UserMeta{string(b.userMeta)},
	}
	m.keys[meta.Key] = modelValue{meta, bytes.Clone(value)}
	m.order = append(m.order, meta.Key)
	m.derived.advance(leafOf(b.header), b)
	m.digests = append(m.digests, m.derived.digest())
	return PutResult{Created, meta}
}

// testDerived is that of a history of so many records, each of one byte.
func testDerived(records Revision) (d derived) {
	for rev := range records {
		d.advance(sumOf(fmt.Append(nil, rev)), &body{size: 1})
	}
	return d
}

// sameResult compares an answer of a store with the model's.
func sameResult(got, want any) bool {
	if want, ok := want.(error); ok {
		got, ok := got.(error)
		return ok && (errors.Is(got, want) || errors.Is(got, errMalformedCommand) && errors.Is(want, errMalformedCommand))
	}
	if p, ok := got.(*pendingRecord); ok {
		got = asPut(p)
	}
	return got == want
}

// check compares the whole visible state of s with the model.
func (m *model) check(t testing.TB, s *Store) {
	t.Helper()
	st := s.Stats()
	if int(st.Revision) != len(m.order) || st.Digest != m.digests[len(m.order)] || st.OpenUploads != len(m.uploads) {
		t.Fatalf("store is at revision %d, digest %s, %d uploads; want %d, %s, %d", st.Revision, st.Digest, st.OpenUploads, len(m.order), m.digests[len(m.order)], len(m.uploads))
	}
	var bytesWant int64
	for key, want := range m.keys {
		bytesWant += want.meta.Size
		v, err := s.Get(key)
		if err != nil {
			t.Fatalf("Get(%q): %v", key, err)
		}
		if v.Meta != want.meta {
			t.Fatalf("Get(%q) = %+v, want %+v", key, v.Meta, want.meta)
		}
		if got := readAll(t, v); !bytes.Equal(got, want.value) {
			t.Fatalf("Get(%q): %d bytes differ from the %d put", key, len(got), len(want.value))
		}
	}
	if st.ValueBytes != bytesWant {
		t.Fatalf("ValueBytes = %d, want %d", st.ValueBytes, bytesWant)
	}
	for r, want := range m.digests {
		if r%11 != 0 && r < len(m.digests)-3 {
			continue // each costs up to 1,023 reads
		}
		if got, err := s.DigestAt(Revision(r)); err != nil || got != want {
			t.Fatalf("DigestAt(%d) = %s, %v; want %s", r, got, err, want)
		}
	}
	m.checkLists(t, s, 37)
	m.checkLists(t, s, 1000)
	for range 20 {
		if _, err := s.Get(Key(fmt.Sprint("never set ", rand.Int()))); !errors.Is(err, ErrNotFound) {
			t.Fatalf("Get of an unset key: %v", err)
		}
	}
}

func readAll(t testing.TB, v *Value) []byte {
	t.Helper()
	r := v.Open(t.Context())
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %q: %v", v.Key, err)
	}
	return b
}

// entry is one entry of a test's log.
type entry struct {
	index    uint64
	commands [][]byte
	meta     []byte
	want     []any
}

// script is a random log with every kind of command, and the model after it.
func script(t testing.TB, seed uint64, entries int) ([]entry, *model) {
	t.Helper()
	return scriptOf(t, seed, entries, 3)
}

// scriptOf limits the chunks of a large value: with 1 all of it is small, which
// the tables that run a script hundreds of times need.
func scriptOf(t testing.TB, seed uint64, entries, chunksMax int) ([]entry, *model) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	g := &scriptGen{rng: rng, now: time.Unix(1_700_000_000, 123), chunksMax: chunksMax}
	m := newModel()
	var log []entry
	index := uint64(0)
	for range entries {
		index += 1 + rng.Uint64N(3)
		e := entry{index: index}
		for range rng.IntN(6) {
			e.commands = append(e.commands, g.commands()...)
		}
		if rng.IntN(4) == 0 {
			e.meta = fmt.Appendf(nil, "meta at %d", index)
		}
		e.want = m.apply(t, e.commands)
		log = append(log, e)
	}
	return log, m
}

type scriptGen struct {
	rng  *rand.Rand
	now  time.Time
	n    int
	open []uploadID

	chunksMax int
}

// commands returns one step's commands: few keys, so that they collide.
func (g *scriptGen) commands() [][]byte {
	g.n++
	g.now = g.now.Add(time.Millisecond)
	key := Key(fmt.Sprintf("key/%03d", g.rng.IntN(150)))
	value := fmt.Appendf(nil, "value %d of %s", g.rng.IntN(3), key)
	switch g.rng.IntN(12) {
	case 0:
		return g.large(key, 1+g.rng.IntN(g.chunksMax))
	case 1:
		return [][]byte{{commandLevel, byte(commandPut), 1, 0}, nil}
	case 2:
		id := g.newUpload()
		g.open = append(g.open, id)
		return [][]byte{openCommand(id, g.now), testChunk(id, 0, value, g.now), testChunk(id, 0, value, g.now), testChunk(id, 1, value, g.now)}
	case 3:
		if len(g.open) > 0 {
			return [][]byte{abandonCommand(g.open[g.rng.IntN(len(g.open))])}
		}
	case 6:
		value = bytes.Repeat(value[:1+g.rng.IntN(2)], BodyBytesMin) // few different ones
		return [][]byte{testPut(key, fmt.Sprint("id-", g.n), "", value, g.now)}
	case 4:
		return [][]byte{testPut(key, fmt.Sprintf("%032x", g.rng.IntN(4)), "text/plain", value, g.now)}
	case 5:
		meta := mustMeta(map[string]string{"n": fmt.Sprint(g.n), "from": "script"})
		return [][]byte{testPutBy(key, fmt.Sprint("principal ", g.n%3), meta, g.now)}
	}
	return [][]byte{testPut(key, fmt.Sprint("id-", g.n), "", value, g.now)}
}

func (g *scriptGen) newUpload() uploadID {
	var id uploadID
	copy(id[:], fmt.Sprintf("upload %09d", g.n))
	return id
}

// large returns a whole upload: at first its chunks come before they are wanted, and
// some come late. They are small but for the full ones a valid upload needs.
func (g *scriptGen) large(key Key, chunks int) [][]byte {
	id := g.newUpload()
	value := bytes.Repeat([]byte{byte(g.n)}, (chunks-1)*ChunkBytes+1+g.rng.IntN(1000))
	open := openCommand(id, g.now)
	first := testChunk(id, 0, value[:min(len(value), ChunkBytes)], g.now)
	cmds := [][]byte{first, open}
	for n := chunks - 1; n > 0; n-- {
		part := value[n*ChunkBytes : min(len(value), (n+1)*ChunkBytes)]
		cmds = append(cmds, testChunk(id, uint32(n), part, g.now))
	}
	early := cmds[2:]
	cmds = append(cmds, first, open)
	for n := len(early) - 1; n >= 0; n-- {
		cmds = append(cmds, early[n])
	}
	cmds = append(cmds, first)
	sum := sumOf(value)
	if g.rng.IntN(8) == 0 {
		sum[0] ^= 1 // a bit flipped on the way
	}
	m := Meta{Key: key, Size: int64(len(value)), SHA256: sum, ContentType: "video/mp4", Time: g.now, PutID: fmt.Sprint("large-", g.n)}
	cmds = append(cmds, sealCommand(&m, id, uint32(chunks)))
	if g.rng.IntN(2) == 0 {
		cmds = append(cmds, open, first) // late repeats
	}
	return cmds
}

func testPut(key Key, id, ct string, value []byte, now time.Time) []byte {
	if ct == "" {
		ct = DefaultContentType
	}
	m := Meta{Key: key, Size: int64(len(value)), ContentType: ct, Time: now, PutID: id}
	m.SHA256 = sumOf(value)
	if m.Size >= BodyBytesMin {
		registerBody(value)
		return referCommand(&m)
	}
	cmd := putCommandHeader(&m)
	return append(cmd, value...)
}

// testPutBy is a put of no bytes that says who puts, and what of it.
func testPutBy(key Key, by string, meta UserMeta, now time.Time) []byte {
	m := Meta{Key: key, SHA256: sumOf(nil), Time: now, PutID: "id", By: by, UserMeta: meta}
	cmd := putCommandHeader(&m)
	return cmd
}

func mustMeta(values map[string]string) UserMeta {
	m, err := MakeUserMeta(values)
	if err != nil {
		panic(err)
	}
	return m
}

func testChunk(id uploadID, n uint32, data []byte, now time.Time) []byte {
	return chunkCommand(id, n, now, registerBody(data))
}

// memDisks are the disks of a store, which outlive it.
type memDisks struct {
	history, staging *engine.MemEngine
	index            *keyruns.MemFiles
	lives            uint64                             // of the index
	values           string                             // directory of the bodies; empty: to be made, with what history refers to
	bodies           *bodies.Store                      // of the last life
	hook             func(disk string) engine.FailPoint // nil: nothing fails
	ahead            atomic.Int64                       // of the clock of the bodies, in nanoseconds
}

func newMemDisks() *memDisks {
	return &memDisks{history: engine.NewMemEngine(), index: keyruns.NewMemFiles(), staging: engine.NewMemEngine()}
}

// open crashes whatever uses the disks and opens a store on what was durable.
func (d *memDisks) open(t testing.TB, cfg StoreConfig) (*Store, error) {
	t.Helper()
	d.history = d.history.Reopen()
	d.arm(d.history, "history")
	var err error
	if cfg.Index, err = d.openIndex(); err != nil {
		return nil, err
	}
	cfg.History, cfg.Bodies = d.history, d.openBodies(t)
	cfg.OpenStaging = func() (engine.Engine, error) {
		d.staging = d.staging.Reopen()
		d.arm(d.staging, "staging")
		return d.staging, nil
	}
	cfg.RemoveStaging = func() error {
		if d.hook != nil && d.hook("remove") == engine.FailBefore {
			return engine.ErrInjected
		}
		d.staging = engine.NewMemEngine()
		return nil
	}
	return OpenStore(cfg)
}

// openIndex opens the index on what a crash of it left.
func (d *memDisks) openIndex() (*keyruns.Index, error) {
	d.lives++
	d.index = d.index.Reopen(d.lives)
	if d.hook != nil {
		d.index.OnCall(func(c keyruns.Call) keyruns.Fault {
			if c.Op != keyruns.OpSync && c.Op != keyruns.OpRename && c.Op != keyruns.OpSyncDir {
				return keyruns.Fault{}
			}
			switch d.hook("index") {
			case engine.FailBefore:
				return keyruns.Fault{Err: engine.ErrInjected}
			case engine.FailAfter:
				return keyruns.Fault{Err: engine.ErrInjected, Done: true}
			}
			return keyruns.Fault{}
		})
	}
	return openIndexIn(d.index)
}

// openIndexIn opens an index that merges as soon as it may.
func openIndexIn(files keyruns.Files) (*keyruns.Index, error) {
	index, err := keyruns.Open(keyruns.Config{Files: files, Logger: slog.New(slog.DiscardHandler), Factor: 2})
	return index, indexError(err)
}

// newIndex returns an empty index.
func newIndex(t testing.TB) *keyruns.Index {
	t.Helper()
	index, err := openIndexIn(keyruns.NewMemFiles())
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// mergeAll does all merges of the index that are due, as Run would.
func mergeAll(s *Store) error {
	for {
		if merged, err := s.index.Merge(context.Background()); err != nil || !merged {
			return s.failed("merge the index", indexError(err))
		}
	}
}

// openBodies opens the bodies anew.
func (d *memDisks) openBodies(t testing.TB) *bodies.Store {
	t.Helper()
	if d.bodies != nil {
		if err := d.bodies.Close(); err != nil {
			t.Fatal(err)
		}
	}
	fresh := d.values == ""
	if fresh {
		d.values = t.TempDir()
	}
	d.bodies = openBodies(t, d.values, func() time.Time { return time.Now().Add(time.Duration(d.ahead.Load())) })
	if fresh {
		supplyHistory(t, d.bodies, d.history)
	}
	return d.bodies
}

func (d *memDisks) arm(e *engine.MemEngine, disk string) {
	if d.hook != nil {
		e.OnUpdate(func(int) engine.FailPoint { return d.hook(disk) })
	}
}

func mustOpen(t testing.TB, d *memDisks, cfg StoreConfig) *Store {
	t.Helper()
	s, err := d.open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustApply applies e and compares the answers with the model's.
func mustApply(t testing.TB, s *Store, e *entry) {
	t.Helper()
	if err := applyEntry(t, s, e); err != nil {
		t.Fatalf("apply entry %d: %v", e.index, err)
	}
}

func applyEntry(t testing.TB, s *Store, e *entry) error {
	t.Helper()
	results, err := applyTo(s, e.index, 7, e.commands, e.meta)
	if err != nil {
		return err
	}
	for i, got := range results {
		if !sameResult(got, e.want[i]) {
			t.Fatalf("entry %d command %d: got %+v, want %+v", e.index, i, got, e.want[i])
		}
	}
	return nil
}

// tiny limits make every mechanism work on small data.
func tiny() StoreConfig {
	return StoreConfig{PendingBytes: 8 << 20, CommitBytes: 1 << 20, MemtableBytes: 4000, GenerationBytes: 1000}
}
