package kvstore

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// nthFault lets one access of a store to its engines fail: the one that so many
// came before. It may be a view, a write, or a value that is read.
type nthFault struct {
	left   int
	hit    string                     // what failed, "" as long as nothing has
	file   string                     // and in which file
	damage func(*recordBlock, []byte) // nil: values are left alone, views and writes fail
}

func (f *nthFault) now(file, what string) bool {
	if f.left--; f.left != -1 {
		return false
	}
	f.hit, f.file = what, file
	return true
}

func (f *nthFault) access(file, what string) error {
	if f.damage == nil && f.now(file, what) {
		return engine.ErrInjected
	}
	return nil
}

func (f *nthFault) value(file string, b engine.Bucket, key, value []byte) []byte {
	if f.damage == nil || len(value) == 0 || !f.now(file, "read of "+b.String()) {
		return value
	}
	value = bytes.Clone(value)
	var block *recordBlock
	if last, ok := keyRevision(key); ok && b == engine.BucketRecords {
		if opened, err := openBlock(value, last); err == nil {
			block = &opened
		}
	}
	f.damage(block, value)
	return value
}

// nthEngine is an engine.Engine that an nthFault looks at.
type nthEngine struct {
	engine.Engine
	file string
	f    *nthFault
}

func (e nthEngine) View(fn func(engine.Tx) error) error {
	if err := e.f.access(e.file, "view"); err != nil {
		return err
	}
	return e.Engine.View(func(tx engine.Tx) error { return fn(nthTx{tx, e}) })
}

func (e nthEngine) Update(fn func(engine.Tx) error) error {
	return e.Engine.Update(func(tx engine.Tx) error { return fn(nthTx{tx, e}) })
}

type nthTx struct {
	engine.Tx
	nthEngine
}

func (t nthTx) Where([]byte) (string, int64) { return t.file, -1 }

func (t nthTx) Get(b engine.Bucket, key []byte) []byte {
	return t.f.value(t.file, b, key, t.Tx.Get(b, key))
}

func (t nthTx) Seek(b engine.Bucket, from []byte) (key, value []byte) {
	key, value = t.Tx.Seek(b, from)
	return key, t.f.value(t.file, b, key, value)
}

func (t nthTx) Ascend(b engine.Bucket, from []byte, fn func(k, v []byte) bool) {
	t.Tx.Ascend(b, from, func(k, v []byte) bool { return fn(k, t.f.value(t.file, b, k, v)) })
}

func (t nthTx) Put(b engine.Bucket, key, value []byte) error {
	if err := t.f.access(t.file, "put to "+b.String()); err != nil {
		return err
	}
	return t.Tx.Put(b, key, value)
}

func (t nthTx) Delete(b engine.Bucket, key []byte) error {
	if err := t.f.access(t.file, "delete from "+b.String()); err != nil {
		return err
	}
	return t.Tx.Delete(b, key)
}

// nthFiles are Files of an index that an nthFault looks at.
type nthFiles struct {
	keyruns.Files
	f *nthFault
}

func (n nthFiles) Create(name string) (keyruns.File, error) {
	if err := n.f.access(n.Path(name), "create"); err != nil {
		return nil, err
	}
	file, err := n.Files.Create(name)
	return nthFile{file, n.f, n.Path(name)}, err
}

func (n nthFiles) Open(name string) (keyruns.File, error) {
	if err := n.f.access(n.Path(name), "open"); err != nil {
		return nil, err
	}
	file, err := n.Files.Open(name)
	if err != nil {
		return nil, err
	}
	return nthFile{file, n.f, n.Path(name)}, nil
}

func (n nthFiles) Rename(from, to string) error {
	if err := n.f.access(n.Path(from), "rename"); err != nil {
		return err
	}
	return n.Files.Rename(from, to)
}

func (n nthFiles) Sync() error {
	if err := n.f.access(n.Path(""), "sync of names"); err != nil {
		return err
	}
	return n.Files.Sync()
}

type nthFile struct {
	keyruns.File
	f    *nthFault
	path string
}

func (n nthFile) ReadAt(p []byte, off int64) (int, error) {
	if err := n.f.access(n.path, "read"); err != nil {
		return 0, err
	}
	read, err := n.File.ReadAt(p, off)
	if read > 0 && n.f.damage != nil && n.f.now(n.path, "read") {
		n.f.damage(nil, p[:read])
	}
	return read, err
}

func (n nthFile) Write(p []byte) (int, error) {
	if err := n.f.access(n.path, "write"); err != nil {
		return 0, err
	}
	return n.File.Write(p)
}

func (n nthFile) Sync() error {
	if err := n.f.access(n.path, "sync"); err != nil {
		return err
	}
	return n.File.Sync()
}

// callWorld is a store that calls are made of, one after the other, and nothing else
// runs.
type callWorld struct {
	t     *testing.T
	disks *memDisks
	f     *nthFault
	s     *Store
	db    *DB
	index uint64
}

// stored is a digest of all that the engines have.
func (w *callWorld) stored() string {
	h := sha256.New()
	if err := w.disks.history.Copy().View(func(tx engine.Tx) error { // also of one that failed
		for b := engine.BucketState; b <= engine.BucketCheckpoints; b++ {
			tx.Ascend(b, nil, func(k, v []byte) bool {
				fmt.Fprintln(h, b, len(k), len(v))
				h.Write(k)
				h.Write(v)
				return true
			})
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	names, err := w.disks.index.List()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		f, err := w.disks.index.Open(name)
		if err != nil {
			w.t.Fatal(err)
		}
		size, err := f.Size()
		if err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintln(h, name, size)
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
			w.t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// call is one call, and what it answers.
type call struct {
	name string
	do   func(w *callWorld) (string, error)
}

func openCall() call {
	return call{"open", func(w *callWorld) (string, error) {
		w.disks.history, w.disks.index = w.disks.history.Reopen(), w.disks.index.Reopen(0)
		index, err := openIndexIn(nthFiles{w.disks.index, w.f})
		if err != nil {
			return "", err
		}
		s, err := OpenStore(StoreConfig{
			History: nthEngine{w.disks.history, historyFile, w.f}, Index: index,
			Bodies: w.disks.openBodies(w.t), CheckpointRevisions: 4,
		})
		if err != nil {
			return "", err
		}
		w.s, w.db = s, NewDB(s, newDirectLog(s), DBConfig{})
		return fmt.Sprint(s.Stats()), nil
	}}
}

func applyCall(cmds ...[]byte) call {
	return call{fmt.Sprintf("apply %d commands, the first of kind %d", len(cmds), cmds[0][1]), func(w *callWorld) (string, error) {
		w.index++
		results, err := applyTo(w.s, w.index, 1, cmds, nil)
		var told []string
		for _, r := range results {
			if refusal, ok := r.(error); ok {
				r = refusal.Error()
			} else if _, ok := r.(*pendingRecord); ok {
				r = asPut(r)
			}
			told = append(told, fmt.Sprintf("%+v", r))
		}
		return strings.Join(told, "\n"), err
	}}
}

func getCall(key Key) call {
	return call{"get " + string(key), func(w *callWorld) (string, error) {
		v, err := w.s.Get(key)
		if errors.Is(err, ErrNotFound) {
			return "not set", nil
		}
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(v.Open(w.t.Context()))
		return fmt.Sprintf("%+v %x", v.Meta, b), err
	}}
}

func getManyCall(keys ...Key) call {
	return call{"get many", func(w *callWorld) (string, error) {
		told := make([]string, len(keys))
		var failed error
		w.db.GetMany(keys, func(i int, v *Value, err error) {
			switch {
			case err == ErrNotFound:
				told[i] = "not set"
			case err != nil:
				told[i], failed = "failed", err
			default:
				told[i] = fmt.Sprintf("%+v %x", v.Meta, v.inline)
			}
		})
		if slices.Contains(told, "") {
			w.t.Errorf("not all keys are answered: %q", told)
		}
		return strings.Join(told, "\n"), failed
	}}
}

// everyCall is a life in which all that a store does with its engines, but for
// snapshots, is done at least once.
func everyCall() []call {
	now := time.Unix(1_700_000_000, 5)
	many := func(prefix string, n, size int) (cmds [][]byte) {
		for i := range n {
			key := fmt.Sprint(prefix, i)
			cmds = append(cmds, testPut(Key(key), "put", "", bytes.Repeat([]byte(key[:1]), size), now))
		}
		return cmds
	}
	upload := func(n byte, key Key) (id uploadID, open, chunk, seal []byte) {
		id = uploadID{n}
		value := bytes.Repeat([]byte{n}, 500)
		m := Meta{Key: key, Size: 500, SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "put"}
		return id, openCommand(id, now), testChunk(id, 0, value, now), sealCommand(&m, id, 1)
	}
	_, open, chunk, seal := upload(1, "large")
	_, lateOpen, lateChunk, lateSeal := upload(2, "late")
	left, leftOpen, leftChunk, _ := upload(3, "left")
	_, newOpen, newChunk, _ := upload(4, "new")
	merge := call{"merge", func(w *callWorld) (string, error) { err := mergeAll(w.s); return w.stored(), err }}
	commit := call{"commit", func(w *callWorld) (string, error) { err := w.s.Commit(); return w.stored(), err }}
	flush := call{"flush", func(w *callWorld) (string, error) { err := w.s.FlushIndex(); return w.stored(), err }}
	calls := []call{openCall()}
	calls = append(calls, applyCall(many("a", 5, 20)...), commit, applyCall(many("b", 9, 3000)...), commit)
	calls = append(calls, applyCall(open, chunk, leftOpen), applyCall(leftChunk), commit, openCall(), applyCall(seal), applyCall(lateOpen, lateChunk, lateSeal), commit, applyCall(open, chunk))
	calls = append(calls, applyCall(many("a", 2, 21)...), flush, applyCall(many("c", 12, 10)...), flush, merge)
	calls = append(calls, applyCall(newOpen, newChunk, many("c", 2, 10)[0], many("d", 1, 1)[0]), applyCall(abandonCommand(left)), commit)
	for _, key := range []Key{"a1", "b5", "c3", "d0", "large", "late", "absent"} {
		calls = append(calls, getCall(key))
	}
	calls = append(calls, getManyCall("absent", "c1"), getManyCall("a1", "b3", "large", "c0", "d0"))
	calls = append(calls, call{"put", func(w *callWorld) (string, error) {
		r, err := w.db.Put(w.t.Context(), put("c2", "other"))
		return fmt.Sprintf("%+v", r), err
	}}, call{"list", func(w *callWorld) (string, error) {
		page, err := w.s.Keys(w.t.Context(), KeysRequest{Limit: 1000, LimitBytes: 1 << 20})
		return fmt.Sprintf("%+v", page), err
	}}, call{"changes", func(w *callWorld) (string, error) {
		c, err := w.s.Changes(ChangesRequest{Limit: 1000, LimitBytes: 1 << 20, Values: true})
		for i, r := range c.Records {
			if r.Value != nil && sumOf(r.Value) != r.SHA256 {
				w.t.Errorf("revision %d has another value", r.Revision)
			}
			c.Records[i].Value = nil // else printing them is most of the work
		}
		return fmt.Sprintf("%+v", c), err
	}}, call{"digest", func(w *callWorld) (string, error) {
		d, err := w.s.DigestAt(11)
		return d.String(), err
	}}, call{"verify", func(w *callWorld) (string, error) { return "", w.s.Verify(w.t.Context()) }})
	return append(calls, applyCall(many("e", 3, 10)...), flush, merge, openCall())
}

// liveCalls makes the calls until one fails or is the one in which something was
// made to fail. It returns what they answered.
func liveCalls(t *testing.T, f *nthFault) (w *callWorld, answers []string, err error) {
	w = &callWorld{t: t, disks: newMemDisks(), f: f}
	// What a pull left behind the end of history gets out of the way.
	writeTestRecords(t, w.disks.history, 2, testRecords(3, 10, 10, 10), false)
	for _, c := range everyCall() {
		answer, err := c.do(w)
		answers = append(answers, c.name+": "+answer)
		if err != nil || f.hit != "" {
			return w, answers, err
		}
	}
	return w, answers, nil
}

// Whatever fails while a store does what it was asked for, it is this very call that
// fails, with that error, and the store is dead. A value that is damaged ends it in
// the same way, or is not looked at: then the answer is right.
func TestStore_EveryCall_TellsWhatFailedInIt(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*recordBlock, []byte){
		"failed":    nil,
		"first bit": func(_ *recordBlock, value []byte) { value[0] ^= 4 },
		"last bit":  func(_ *recordBlock, value []byte) { value[len(value)-1] ^= 1 },
		"a bit of each record": func(b *recordBlock, value []byte) {
			if b == nil {
				value[len(value)/2] ^= 1
				return
			}
			for i := range b.len() {
				if r := b.record(i); len(r) > 0 {
					r[len(r)-1] ^= 1
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			none := &nthFault{left: 1 << 30, damage: damage}
			_, clean, err := liveCalls(t, none)
			if err != nil {
				t.Fatal(err)
			}
			n := 1<<30 - none.left
			if n < 100 {
				t.Errorf("only %d accesses", n)
			}
			for i := range n {
				f := &nthFault{left: i, damage: damage}
				w, answers, err := liveCalls(t, f)
				last := len(answers) - 1
				what := fmt.Sprintf("%s, %s", f.hit, strings.SplitN(clean[last], ":", 2)[0])
				var corrupt *CorruptError
				switch {
				case f.hit == "":
					t.Errorf("access %d never came", i)
				case err == nil && damage == nil:
					t.Errorf("%s: it does not tell", what)
				case err == nil && answers[last] != clean[last]:
					t.Errorf("%s: it answers\n%.300s, want\n%.300s", what, answers[last], clean[last])
				case err != nil && damage == nil && !errors.Is(err, engine.ErrInjected), err != nil && damage != nil && !errors.As(err, &corrupt):
					t.Errorf("%s: it tells %v", what, err)
				case err != nil && damage != nil && corrupt.File != f.file:
					t.Errorf("%s of %s: it blames %v", what, f.file, err)
				case err != nil && !strings.Contains(what, "open") && w.s.err() == nil:
					t.Errorf("%s: the store goes on after %v", what, err)
				}
			}
		})
	}
}
