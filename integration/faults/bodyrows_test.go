package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

// valuesDir is where a node keeps the bytes of large values, in segments, beside a table of
// their places.
const (
	valuesDir = "values"
	segments  = valuesDir + "/*" + segmentExt

	segmentExt = ".values"
)

// bodyRows are faults of large values, and of nodes while they are uploaded.
func bodyRows() []row {
	large := plan{databases: 3, bodies: true}
	images := plan{databases: 3, image: filledDisk, bodies: true, flags: []string{"--disk-reserve-bytes", "0"}}
	return []row{
		{name: "bodies-kill-leader", plan: large, attack: func(e *episode) { e.killInTheMiddle((*world).leader) }},
		{name: "bodies-kill-follower", plan: large, attack: func(e *episode) { e.killInTheMiddle(func(w *world, _ ...*node) *node { return e.follower() }) }},
		{name: "bodies-kill-all", plan: large, attack: (*episode).killAllInTheMiddle},
		{name: "bodies-power-cut-one", plan: images, attack: func(e *episode) { e.powerCutInTheMiddle(e.anyDB()) }},
		{name: "bodies-power-cut-all", plan: images, attack: func(e *episode) { e.powerCutInTheMiddle(e.world.dbs...) }},
		{name: "bodies-full-disk", plan: images, attack: bodiesFullDisk},
		{name: "bodies-write-error", plan: large, attack: bodiesWriteError},
		{name: "bodies-fsync-error", plan: large, attack: func(e *episode) { e.hasSegments(e.world.dbs...); e.fsyncError(segments) }},
		{name: "bodies-flipped-bit", plan: large, attack: flippedBit},
		{name: "bodies-table-deleted", plan: large, attack: tableDeleted},
	}
}

// bodySizes are sizes of large values: one body, small and full, and several.
var bodySizes = []int{20 << 10, kvstore.ChunkBytes, kvstore.ChunkBytes + 1, 3 << 20, 5<<20 - 1}

// bodyValue makes a large value that names who puts it. Some values are the same for
// everybody, under any key; all are text, so that they may be sent as JSON.
func bodyValue(text []byte, rng *rand.Rand) []byte {
	size := bodySizes[rng.IntN(len(bodySizes))]
	if rng.IntN(3) == 0 {
		text = fmt.Appendf(nil, "one of %d values of %d bytes that many keys have ", rng.IntN(4), size)
	}
	return sized(text, size)
}

// sized extends a text to a size with letters that depend on it.
func sized(text []byte, size int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_."
	value := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256(text)).Read(value) // never fails
	for i, b := range value {
		value[i] = letters[b>>2]
	}
	copy(value, text)
	return value
}

// inTheMiddle runs act while two uploads of large values through each node are half sent. Then
// one of the two continues and the other is abandoned. The caller waits for their outcomes.
func (e *episode) inTheMiddle(act func(), through ...*node) (wait func()) {
	e.t.Helper()
	goOn := make(chan struct{})
	defer close(goOn)
	var uploads, halves sync.WaitGroup
	for _, n := range through {
		for i := range 2 {
			p := newProber(fmt.Sprintf("upload%d", i), n, e.history, attemptPatience)
			key := fmt.Sprintf("upload/%s/%d/%d", n.Name, i, e.history.now())
			value := sized([]byte("uploaded as "+key+" "), 4<<20+e.rng.IntN(4<<20))
			halves.Add(1)
			half := sync.OnceFunc(halves.Done)
			body := &gatedBody{rest: bytes.NewReader(value), half: len(value) / 2, reached: half, goOn: goOn, abandon: i == 1}
			uploads.Go(func() {
				defer half() // refused before
				p.putFrom(context.Background(), key, value, body, false)
			})
		}
	}
	halves.Wait()
	act()
	return uploads.Wait
}

// gatedBody is a request's body that stops half-way until goOn is closed, and then ends or
// goes on.
type gatedBody struct {
	rest    *bytes.Reader
	half    int
	reached func()
	goOn    <-chan struct{}
	abandon bool
}

var errAbandoned = errors.New("the client goes away")

// Len returns how much is left.
func (b *gatedBody) Len() int { return b.rest.Len() }

func (b *gatedBody) Read(p []byte) (int, error) {
	if left := b.rest.Len() - b.half; left > 0 {
		return b.rest.Read(p[:min(len(p), left)])
	}
	b.reached()
	<-b.goOn
	if b.abandon {
		return 0, errAbandoned
	}
	return b.rest.Read(p)
}

// killInTheMiddle kills a node while large values are uploaded through every node.
func (e *episode) killInTheMiddle(whom func(*world, ...*node) *node) {
	for range 2 {
		victim := whom(e.world)
		since := e.history.now()
		wait := e.inTheMiddle(func() {
			since = e.history.now()
			kill(victim)
		}, e.world.dbs...)
		e.writesBack("with "+victim.Name+" dead", since, backAfterKill, e.world.others(victim)...)
		e.hold(0, time.Second)
		since = e.history.now()
		victim.Start()
		e.writesBack("with "+victim.Name+" back", since, backAfterHeal, victim)
		wait()
	}
}

func (e *episode) killAllInTheMiddle() {
	for range 2 {
		wait := e.inTheMiddle(func() { kill(e.world.dbs...) }, e.world.dbs...)
		since := e.history.now()
		for _, d := range e.world.dbs {
			d.Start()
		}
		e.writesBack("after kill -9 of all", since, 2*backAfterHeal, e.world.dbs...)
		wait()
	}
}

// powerCutInTheMiddle loses what nodes have not flushed while large values are uploaded.
func (e *episode) powerCutInTheMiddle(victims ...*node) {
	for round := range 2 {
		wait := e.inTheMiddle(func() {
			e.pass(time.Duration(e.rng.Int64N(int64(300 * time.Millisecond))))
			e.losePower(nil, victims...)
		}, e.world.dbs...)
		since := e.history.now()
		for _, v := range victims {
			v.Start()
		}
		e.writesBack(fmt.Sprintf("after power cut %d", round+1), since, 2*backAfterHeal, e.world.dbs...)
		wait()
	}
}

// bodiesFullDisk leaves little room on one disk, and large values fill it. The node refuses
// them, and stops when there is no room for anything else. The others go on, and so does the
// node when there is room.
func bodiesFullDisk(e *episode) {
	const leave, taken = 8 << 20, 1 << 20
	victim := e.anyDB()
	e.hasSegments(victim)
	filler := e.fill(victim, leave)
	clustertest.Eventually(e.t, "large values take the rest of the disk of "+victim.Name, func() error {
		if free := freeBytes(e.t, victim.disk.point); victim.Running() && free > taken {
			return fmt.Errorf("%d bytes are free", free)
		}
		return nil
	})
	e.writesBack("with one disk full", e.history.now(), backAfterKill, e.world.others(victim)...)
	e.hold(2*time.Second, 4*time.Second)
	if err := os.RemoveAll(filler); err != nil {
		e.t.Fatal(err)
	}
	since := e.history.now()
	for victim.Running() && !e.history.createdSince(victim.Name, since) && e.history.now()-since < clustertest.Patience {
		e.pass(20 * time.Millisecond) // it may be about to stop
	}
	if !victim.Running() {
		e.ends(victim, "no space left on device")
		since = e.history.now()
		victim.Start()
	} else {
		e.t.Logf("%s ran on", victim.Name)
	}
	e.writesBack("with room on the disk", since, backAfterHeal, victim)
}

// hasSegments waits until nodes have large values in files.
func (e *episode) hasSegments(nodes ...*node) {
	e.t.Helper()
	for _, n := range nodes {
		clustertest.Eventually(e.t, n.Name+" has a segment", func() error {
			for _, name := range segmentsOf(n) {
				if about, err := os.Stat(name); err == nil && about.Size() > kvstore.ChunkBytes {
					return nil
				}
			}
			return fmt.Errorf("there is none with a large value in %s", filepath.Join(n.Dir, valuesDir))
		})
	}
}

func segmentsOf(n *node) []string {
	names, _ := filepath.Glob(filepath.Join(n.Dir, segments))
	return names
}

// bodiesWriteError makes writes to the newest segment of one node fail. The node must stop at
// once and name the file, and is replaced.
func bodiesWriteError(e *episode) {
	victim := e.anyDB()
	e.hasSegments(victim)
	path := slices.Max(segmentsOf(victim))
	tr := clustertest.TamperWrites(e.t, victim.PID(), "error=EIO", path)
	e.endsWith(codeDiskFailed, victim, filepath.Base(path), "input/output error")
	tr.End()
	e.staysDown(victim, path)
}

// flippedBit changes one bit of a large value on one node's disk. A read there returns no
// wrong byte: the node stops, and is replaced.
func flippedBit(e *episode) {
	victim := e.anyDB()
	keys := e.putEverywhere(5, func(key string) []byte { return sized([]byte("value of "+key+" "), bodySizes[e.rng.IntN(2)]) })
	e.stopInOrder(victim)
	text := []byte("value of " + keys[e.rng.IntN(len(keys))] + " ")
	for _, path := range segmentsOf(victim) {
		b, err := os.ReadFile(path)
		if err != nil {
			e.t.Fatal(err)
		}
		if at := bytes.Index(b, text); at >= 0 {
			e.t.Logf("one bit of %q at offset %d of %s", text, at, path)
			if err := flip(path, int64(at+e.rng.IntN(bodySizes[0])), uint(e.rng.IntN(8))); err != nil {
				e.t.Fatal(err)
			}
			e.useDamaged(victim, path)
			if !e.noticed {
				e.t.Errorf("%s did not notice a flipped bit of a value that was read", victim.Name)
			}
			return
		}
	}
	e.t.Fatalf("no segment of %s has %q", victim.Name, text)
}

// tableDeleted deletes everything beside the segments of large values while a node is down.
// The node rebuilds it.
func tableDeleted(e *episode) {
	victim := e.anyDB()
	e.hasSegments(victim)
	kill(victim)
	var deleted []string
	err := filepath.WalkDir(filepath.Join(victim.Dir, valuesDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, segmentExt) {
			return err
		}
		deleted = append(deleted, path)
		return os.Remove(path)
	})
	if err != nil || len(deleted) == 0 {
		e.t.Fatalf("there is nothing beside the segments of %s: %v", victim.Name, err)
	}
	e.t.Logf("deleted %q", deleted)
	since := e.history.now()
	victim.Start()
	e.writesBack("without a table", since, backAfterHeal, victim)
}
