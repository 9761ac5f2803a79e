package raftnode

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Times of large values. A body stands still for less than a third of the time
// after which an upload counts as idle, but for some that come slowly.
const (
	simUploadIdle = 6*time.Second + 444*time.Microsecond // a quarter of it is no moment of another timer
	simChunkRetry = 1507 * time.Millisecond              // never at the moment of a retry, for then either may come first
	simBodyPause  = 1500 * time.Millisecond
)

// simUpload is an upload of a cluster, as commands name it.
type simUpload struct {
	cluster ID
	id      [16]byte
}

// simProgress is how far an upload has come.
type simProgress struct {
	at    time.Time       // when it was last opened, or its last chunk applied, anywhere for the first time
	came  []time.Time     // when each of these was
	seen  map[string]bool // its chunks, by number, and what opened it, by time
	left  bool            // its client has given up
	idle  bool            // it was idle for somebody who had all of it
	ended bool
}

// A command has its kind in one of its first bytes, and behind these its upload, if it
// has one; the number of a chunk is next.
const (
	simCommandHead    = 4
	simAbandonCommand = 4
)

// observe judges what one machine has applied: nobody may drop an upload that goes
// on but its client.
func (w *simWorld) observe(s *simNode, index uint64, commands [][]byte, results []any) {
	cluster := w.proposedIn(s.life.node, index)
	for i, command := range commands {
		switch results[i].(type) {
		case kvstore.OpenResult, kvstore.ChunkResult, kvstore.AbandonResult:
		default: // another command, or one that was refused: it may be no command at all
			continue
		}
		u := w.upload(cluster, command)
		came := false
		switch result := results[i].(type) {
		case kvstore.OpenResult:
			opened := string(command[simCommandHead+len(simUpload{}.id):])
			came, u.seen[opened] = !u.seen[opened], true
		case kvstore.ChunkResult:
			number := string(command[simCommandHead+len(simUpload{}.id):][:4])
			came, u.seen[number] = !u.seen[number], true
		case kvstore.AbandonResult:
			idle := time.Since(u.at)
			if result.Dropped && !u.left && !u.idle && !u.ended && idle < simUploadIdle/2 {
				w.fatalf("n%d drops an upload that has had its last chunk, or was kept open, %v ago", s.id, idle)
			}
			u.ended = u.ended || result.Dropped
		}
		if came {
			u.at = time.Now()
			u.came = append(u.came, u.at)
		}
	}
}

// proposedIn is the cluster in which an entry was proposed: what lies before the forcing
// of a new one in its log is of the old one.
func (w *simWorld) proposedIn(n *Node, index uint64) ID {
	f := w.force
	if f == nil || n.self.ClusterID == f.old {
		return n.self.ClusterID
	}
	if f.at = max(f.at, n.core.forcedAt); index <= f.at {
		return f.old
	}
	return n.self.ClusterID
}

func (w *simWorld) upload(cluster ID, command []byte) *simProgress {
	id := simUpload{cluster, [16]byte(command[simCommandHead:])}
	u := w.uploads[id]
	if u == nil {
		u = &simProgress{seen: map[string]bool{}}
		w.uploads[id] = u
	}
	return u
}

// gaveUp notes that a client drops its own upload, or that a process drops one which was
// idle already when it asked how far the log goes. Its next chunk may come just before
// that: then it is dropped all the same, and rightly.
func (l simLog) gaveUp(ctx context.Context, command []byte) {
	c, ok := ctx.Value(simClientKey{}).(*simClient)
	switch {
	case !ok || command[1] != simAbandonCommand:
	case c.number > 0:
		l.w.upload(c.cluster, command).left = true
	case !c.caughtUp.IsZero():
		u := l.w.upload(l.node.self.ClusterID, command)
		var last time.Time
		for _, at := range u.came {
			if !at.After(c.proved) { // the answer may know no later ones
				last = at
			}
		}
		u.idle = u.idle || c.caughtUp.Sub(last) >= simUploadIdle/2
	}
}

// chunks lists all chunks that history has: keys and rows, which end with the digest.
func (s *simNode) chunks() []string {
	rows := []string{}
	err := s.history.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketChunks, nil, func(k, row []byte) bool {
			rows = append(rows, string(k)+string(row))
			return true
		})
		return nil
	})
	if err != nil {
		s.w.fatalf("n%d: %v", s.id, err)
	}
	return rows
}

// dbConfig is that of a process: its time is its machine's.
func (s *simNode) dbConfig() kvstore.DBConfig {
	return kvstore.DBConfig{Rand: s.w.entropy, Now: s.clock.now, ChunkRetry: simChunkRetry, UploadIdle: simUploadIdle, SweepInterval: 500 * time.Millisecond, Logger: s.w.logger(s.id)}
}

// sweep runs the DB of a process, whose proposals wait for their turn as those of
// clients do.
func (s *simNode) sweep(ctx context.Context, life *simLife) {
	ctx = context.WithValue(ctx, simClientKey{}, s.w.actor())
	s.w.behind.Add(1)
	go func() {
		defer s.w.behind.Add(-1)
		if err := life.db.Run(ctx); err != nil {
			s.w.fatalf("n%d: the DB's Run: %v", s.id, err)
		}
	}()
}

// body returns one that is sent, and may stand still, or break off, between chunks.
func (c *simClient) body(ctx context.Context, value []byte) io.Reader {
	if len(value) <= kvstore.ChunkBytes {
		return bytes.NewReader(value)
	}
	return &simBody{c: c, ctx: ctx, rest: value}
}

// errSimBody: the client has gone.
var errSimBody = errors.New("simulated client hangs up")

type simBody struct {
	c    *simClient
	ctx  context.Context
	rest []byte
	sent int // since it stood still
}

// Read implements io.Reader.
func (b *simBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	if b.sent >= kvstore.ChunkBytes {
		b.sent = 0
		if !b.c.w.calm.Load() {
			rarely := 10
			if b.c.slow {
				rarely = 30
			}
			if b.c.r.IntN(rarely) == 0 {
				return 0, errSimBody
			}
			pause := time.Duration(b.c.r.Int64N(int64(simBodyPause)))
			if b.c.slow {
				pause = simSlowPause + pause/3
				if b.c.r.IntN(4) == 0 {
					pause += simUploadIdle // only what keeps it open tells that it lives
				}
			}
			<-time.After(pause)
			b.c.w.await(b.c.number, "body")
			if err := b.ctx.Err(); err != nil { // whoever puts would notice it or not
				return 0, err
			}
		}
	}
	n := copy(p[:min(len(p), kvstore.ChunkBytes-b.sent)], b.rest)
	b.rest, b.sent = b.rest[n:], b.sent+n
	return n, nil
}

// simScratch is a file to sort keys in.
type simScratch struct {
	dice *simDice
	b    []byte
}

// Write implements io.Writer.
func (s *simScratch) Write(p []byte) (int, error) {
	if broken, _ := s.dice.breaks(1); broken {
		return 0, engine.ErrInjected
	}
	s.b = append(s.b, p...)
	return len(p), nil
}

// ReadAt implements io.ReaderAt.
func (s *simScratch) ReadAt(p []byte, at int64) (int, error) {
	return bytes.NewReader(s.b).ReadAt(p, at)
}

// Close implements kvstore.Scratch.
func (s *simScratch) Close() error { return nil }
