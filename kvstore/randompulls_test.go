package kvstore

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// randomLog is a log of n entries with puts of many sizes, uploads that are sealed, dropped
// or left open, and the model after it.
func randomLog(t *testing.T, seed uint64, n int) ([]entry, *model) {
	r := rand.New(rand.NewPCG(seed, 1))
	m := newModel()
	var log []entry
	k := 0
	type openUpload struct {
		id   uploadID
		data []byte
	}
	var open []openUpload
	for i := range n {
		var cmds [][]byte
		for range 1 + r.IntN(12) {
			k++
			size := r.IntN(300)
			switch r.IntN(60) {
			case 0:
				size = r.IntN(20000)
			case 1:
				size = 0
			case 2:
				size = BodyBytesMin + r.IntN(20000)
			}
			v := make([]byte, size)
			for j := range v {
				v[j] = byte(r.Uint32())
			}
			key := Key(fmt.Sprintf("%x/%d", (k*7919)%9973, k))
			if r.IntN(50) == 0 {
				key = Key(fmt.Sprintf("%01023d", k))
			}
			cmds = append(cmds, testPut(key, "id", "", v, time.Unix(0, int64(k))))
		}
		now := time.Unix(0, int64(k))
		for _, last := range []bool{r.IntN(5) == 0, r.IntN(7) == 0, len(open) > 3} {
			if !last {
				continue
			}
			if len(open) == 0 || r.IntN(2) == 0 {
				u := openUpload{id: uploadID{byte(seed), byte(k), byte(k >> 8), byte(len(open))}, data: make([]byte, 1+r.IntN(5000))}
				for j := range u.data {
					u.data[j] = byte(r.Uint32())
				}
				cmds = append(cmds, openCommand(u.id, now), testChunk(u.id, 0, u.data, now))
				open = append(open, u)
				continue
			}
			at := r.IntN(len(open))
			u := open[at]
			open = slices.Delete(open, at, at+1)
			if r.IntN(3) == 0 {
				cmds = append(cmds, abandonCommand(u.id))
				continue
			}
			k++
			meta := Meta{Key: Key(fmt.Sprintf("upload/%d", k)), Size: int64(len(u.data)), SHA256: sumOf(u.data), ContentType: "video/mp4", Time: now, PutID: "id"}
			cmds = append(cmds, sealCommand(&meta, u.id, 1))
		}
		e := entry{index: uint64(i + 1), commands: cmds}
		e.want = m.apply(t, e.commands)
		log = append(log, e)
	}
	return log, m
}

// takenSnapshot is a snapshot of a sender.
type takenSnapshot struct {
	index          uint64
	meta, snapshot []byte
}

// randomBodies is a source of bodies that gives all, lacks some, or breaks off.
func randomBodies(r *rand.Rand, sender *Store) bodies.Fetch {
	kind, odds := r.IntN(5), 2+r.IntN(20)
	return func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
		return bodiesFrom(sender)(ctx, refs, func(b bodies.Body) error {
			switch {
			case kind == 0 && r.IntN(odds) == 0:
				return nil
			case kind == 1 && r.IntN(odds) == 0:
				return bodies.ErrFrame // as of one that was damaged on its way
			}
			return each(b)
		})
	}
}

// Pulls that break off, lie or lack bodies, commits, time that passes, and kills of both
// sides and crashes at any write, in any order: what is durable is always right.
func TestStore_Stage_RandomPullsAndCrashes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testRandomPullsAndCrashes)
}

func testRandomPullsAndCrashes(t *testing.T) {
	const n = 260
	log, m := randomLog(t, 7, n)
	other, _ := randomLog(t, 8, n)
	cfg := tiny()
	cfg.CommitBytes = 6000
	cfg.MemtableBytes = 200000
	cfg.GenerationBytes = 20000
	senderDisks := newMemDisks()
	sender := mustOpen(t, senderDisks, cfg)
	liar := mustOpen(t, newMemDisks(), cfg)
	if err := runLog(t, liar, other); err != nil {
		t.Fatal(err)
	}
	snaps := map[int]takenSnapshot{}
	for at := 10; at <= n; at += 10 {
		if err := runLog(t, sender, log[:at]); err != nil {
			t.Fatal(err)
		}
		i, _, me, sn, err := sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		snaps[at] = takenSnapshot{i, me, sn}
	}
	counts := map[string]int{}
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 2))
		d := newMemDisks()
		armed := -1
		d.hook = func(string) engine.FailPoint {
			if armed--; armed == 0 {
				return []engine.FailPoint{engine.FailBefore, engine.FailAfter}[r.IntN(2)]
			}
			return engine.FailNever
		}
		s := mustOpen(t, d, cfg)
		open := func() {
			armed = -1
			var err error
			c := cfg
			if r.IntN(3) == 0 {
				c.MemtableBytes, c.GenerationBytes = 8000, 2000
				c.OpenScratch = func() (Scratch, error) { return &memScratch{}, nil }
			}
			if s, err = d.open(t, c); err != nil {
				t.Fatalf("seed %d: open: %v", seed, err)
			}
			if r.IntN(3) > 0 {
				s.Recovered()
			}
		}
		for step := 0; step < 40 && s.Stats().AppliedIndex < n; step++ {
			if r.IntN(3) == 0 {
				armed = 1 + r.IntN(30)
			}
			at := int(s.Stats().AppliedIndex)
			var err error
			switch r.IntN(8) {
			case 0, 1:
				err = runLog(t, s, log[:min(n, at+r.IntN(8))])
				counts["apply"]++
			case 2, 3, 4:
				to := min((at/10+1+r.IntN(12))*10, n)
				sn := snaps[to]
				fetch, fetchBodies := serveFrom(sender), randomBodies(r, sender)
				kind := r.IntN(4)
				if kind == 0 {
					fetchBodies = randomBodies(r, liar)
					fetch = func(ctx ctxT, raw string) (io.ReadCloser, error) {
						q, _ := parseQuery(raw)
						if q.kind == queryChunks { // that an upload is gone is believed: raftnode pulls from those with this history
							return serveFrom(sender)(ctx, raw)
						}
						q.index = 1
						return serveFrom(liar)(ctx, q.String())
					}
				} else if kind < 3 {
					fetch = func(ctx ctxT, raw string) (io.ReadCloser, error) {
						rc, err := serveFrom(sender)(ctx, raw)
						var read int64
						return &cutReader{ReadCloser: rc, left: r.Int64N(60000), read: &read}, err
					}
				}
				err = s.Stage(t.Context(), sn.snapshot, fetch, fetchBodies)
				counts[fmt.Sprintf("stage%d %v", kind, err == nil)]++
				if err == nil && r.IntN(3) > 0 {
					err = s.Install(sn.index, 7, sn.meta, sn.snapshot)
					counts[fmt.Sprintf("install %v", err == nil)]++
				}
			case 5:
				err = errors.New("crash")
			case 6:
				reclaimFor(t, s, time.Duration(r.IntN(20))*time.Minute)
				counts["reclaim"]++
			case 7:
				sender = mustOpen(t, senderDisks, cfg)
				counts["the sender is killed"]++
			}
			if s.err() != nil && !errors.Is(s.err(), engine.ErrInjected) {
				t.Fatalf("seed %d: %v", seed, s.err())
			}
			if s.err() != nil || err != nil && r.IntN(2) == 0 {
				open()
			}
			armed = -1
			// What is durable must be right at every moment.
			if step%4 == 0 {
				half := newModel()
				for i := range int(s.Stats().AppliedIndex) {
					half.apply(t, log[i].commands)
				}
				half.check(t, s)
				if err := s.Verify(t.Context()); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		open()
		if err := runLog(t, s, log); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m.check(t, s)
		if err := s.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		open()
		m.check(t, s)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(counts)
}
