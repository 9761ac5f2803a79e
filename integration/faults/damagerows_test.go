package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

// damageRows are faults of bytes that were on disk. The node is down while they happen.
func damageRows() []row {
	return []row{
		{name: "torn-wal-tail", attack: tornTail},
		{name: "damaged-wal-record", attack: damagedRecord},
		{name: "damaged-history-page", attack: func(e *episode) { e.damagedPage("history.db") }},
		{name: "damaged-index", attack: damagedIndex},
		{name: "damaged-value", attack: damagedValue},
		{name: "lost-directory", attack: lostDirectory},
	}
}

// tornTail appends the beginning of a write that was never flushed to a log. The node must cut
// it off, and nothing else.
func tornTail(e *episode) {
	victim := e.anyDB()
	kill(victim)
	all := e.frames(victim)
	last := all[len(all)-1]
	next, err := nextFrame(all, 1000+e.rng.IntN(8000))
	if err != nil {
		e.t.Fatal(err)
	}
	at := (last.end + 7) / 8 * 8
	// A disk writes whole sectors, in any order: here the first ones.
	sector := int64(512)
	keep := sector - at%sector + sector*int64(e.rng.IntN(len(next)/int(sector)))
	next = next[:min(keep, int64(len(next)-1))]
	e.t.Logf("%d bytes of a torn write at offset %d of %s", len(next), at, last.file)
	if err := errors.Join(zero(last.file, last.end), overwrite(last.file, at, next)); err != nil {
		e.t.Fatal(err)
	}
	since := e.history.now()
	victim.Start()
	e.writesBack("with a torn tail cut off", since, backAfterHeal, victim)
}

func (e *episode) frames(n *node) []frame {
	e.t.Helper()
	all, err := walFrames(filepath.Join(n.Dir, "wal"))
	if err != nil {
		e.t.Fatal(err)
	}
	return all
}

// damagedRecord flips one bit in a flushed record. The node must not start; it is replaced.
func damagedRecord(e *episode) {
	victim := e.anyDB()
	kill(victim)
	synced := syncedFrames(e.frames(victim))
	f := synced[e.rng.IntN(len(synced))]
	at := f.off + e.rng.Int64N(f.end-f.off)
	e.t.Logf("one bit at offset %d of %s, in a record at %d", at, f.file, f.off)
	if err := flip(f.file, at, uint(e.rng.IntN(8))); err != nil {
		e.t.Fatal(err)
	}
	e.refuses(victim, f.file, fmt.Sprintf("offset %d", f.off))
	e.replace(victim)
}

// pageBytes is the size of bbolt's pages on this machine.
func pageBytes() int64 { return int64(os.Getpagesize()) }

// damagedPage overwrites a page of a bbolt file. The node may start if the page is not in use;
// it must never give wrong bytes, and if it ends it must name the file.
func (e *episode) damagedPage(name string) {
	victim := e.anyDB()
	e.stopInOrder(victim)
	path := filepath.Join(victim.Dir, name)
	used := e.usedPages(path)
	page := used[e.rng.IntN(len(used))]
	junk := e.junk(16 + e.rng.IntN(int(pageBytes())-16))
	e.t.Logf("%d bytes of junk or zeros over page %d of %s", len(junk), page, path)
	if err := overwrite(path, page*pageBytes(), junk); err != nil {
		e.t.Fatal(err)
	}
	e.useDamaged(victim, path)
}

// junk returns random bytes, or zeros.
func (e *episode) junk(n int) []byte {
	junk := make([]byte, n)
	if e.rng.IntN(2) == 0 {
		for i := range junk {
			junk[i] = byte(e.rng.Uint32())
		}
	}
	return junk
}

// damagedIndex overwrites part of a file of an index. If that is a filter, the node may start
// and rebuild it; otherwise the rules of damagedPage apply.
func damagedIndex(e *episode) {
	victim := e.anyDB()
	e.setEverywhere(20)
	e.stopInOrder(victim)
	e.flushIndex(victim)
	path := e.oneOf(filepath.Join(victim.Dir, indexDir, "*"))
	info, err := os.Stat(path)
	if err != nil {
		e.t.Fatal(err)
	}
	at := e.rng.Int64N(info.Size())
	junk := e.junk(int(1 + e.rng.Int64N(info.Size()-at)))
	e.t.Logf("%d bytes of junk or zeros at offset %d of %s", len(junk), at, path)
	if err := overwrite(path, at, junk); err != nil {
		e.t.Fatal(err)
	}
	e.useDamaged(victim, path)
}

// flushIndex moves all keys of a stopped node into index runs, as in a node that has many.
func (e *episode) flushIndex(n *node) {
	e.t.Helper()
	store, err := kvstore.OpenStoreDir(n.Dir, kvstore.StoreConfig{})
	if err != nil {
		e.t.Fatal(err)
	}
	if err := errors.Join(store.FlushIndex(), store.Close()); err != nil {
		e.t.Fatal(err)
	}
}

// oneOf returns one of the files of a glob.
func (e *episode) oneOf(glob string) string {
	e.t.Helper()
	names, err := filepath.Glob(glob)
	if err != nil || len(names) == 0 {
		e.t.Fatalf("no %s: %v", glob, err)
	}
	return names[e.rng.IntN(len(names))]
}

// usedPages returns the pages of a file that hold something, or once did.
func (e *episode) usedPages(path string) (pages []int64) {
	e.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		e.t.Fatal(err)
	}
	size := int(pageBytes())
	for i := 0; i < len(b)/size; i++ {
		if bytes.ContainsFunc(b[i*size:(i+1)*size], func(r rune) bool { return r != 0 }) {
			pages = append(pages, int64(i))
		}
	}
	return pages
}

// damagedValue flips a bit of a value in history.
func damagedValue(e *episode) {
	victim := e.anyDB()
	e.setEverywhere(20)
	e.stopInOrder(victim)
	path := filepath.Join(victim.Dir, "history.db")
	b, err := os.ReadFile(path)
	if err != nil {
		e.t.Fatal(err)
	}
	value := fmt.Appendf(nil, "value of everywhere/%d", e.rng.IntN(20))
	off, bit, found := e.rng.IntN(12), uint(e.rng.IntN(8)), 0
	for from := 0; ; found++ { // also in pages no longer in use
		at := bytes.Index(b[from:], value)
		if at < 0 {
			break
		}
		from += at + len(value)
		if err := flip(path, int64(from-len(value)+off), bit); err != nil {
			e.t.Fatal(err)
		}
	}
	if found == 0 {
		e.t.Fatalf("%s does not hold the value", path)
	}
	e.useDamaged(victim, path)
	if !e.noticed {
		e.t.Errorf("%s did not notice a damaged value", victim.Name)
	}
}

// stopInOrder stops a node so that its files hold everything it knows.
func (e *episode) stopInOrder(n *node) {
	e.t.Helper()
	n.Signal(syscall.SIGTERM)
	if code := n.Wait(); code != 0 {
		e.t.Errorf("%s ended with code %d; its log:\n%s", n.Name, code, tail(n.Log()))
	}
}

// useDamaged starts a node on damaged files and reads everything through it. If it ends, it
// must name the file. It is replaced in any case: the damage may be where only a later read
// looks.
func (e *episode) useDamaged(n *node, path string) {
	e.t.Helper()
	n.Start()
	p := newProber("damaged", n, e.history, attemptPatience)
	clustertest.Eventually(e.t, n.Name+" is ready or ends", func() error {
		if n.Running() && p.ready() != http.StatusOK {
			return fmt.Errorf("neither")
		}
		return nil
	})
	for key := range e.history.keys() {
		clustertest.Eventually(e.t, n.Name+" answers or ends", func() error {
			status := p.get(context.Background(), key)
			e.noticed = status == http.StatusInternalServerError || !n.Running()
			if status == 0 && !e.noticed {
				return errors.New("neither")
			}
			return nil
		})
		if e.noticed {
			break
		}
	}
	if e.noticed {
		e.ends(n, path)
	} else {
		e.t.Logf("%s runs on: the damage is where nobody looks", n.Name)
		kill(n)
	}
	e.replace(n)
}

func (p *prober) ready() int {
	a, err := p.send(context.Background(), http.MethodGet, "/readyz", noBody(), nil)
	if err != nil {
		return 0
	}
	return a.status
}

// lostDirectory empties a node's disk. The node must not come back under its old identity: it
// may have voted.
func lostDirectory(e *episode) {
	victim := e.anyDB()
	kill(victim)
	victim.wipe(e.t)
	e.refuses(victim, "-XDELETE", "--join")
	e.replace(victim)
}
