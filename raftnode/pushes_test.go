package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// fakeMember answers pushes as it is told.
type fakeMember struct {
	mu     sync.Mutex
	has    map[bodies.Digest]bool
	down   bool
	sent   int // bytes of bodies
	asked  int
	posts  int
	hang   bool // until the end
	refuse bool
}

func (f *fakeMember) post(ctx context.Context, batch []*push) ([]bodies.Answer, error) {
	f.mu.Lock()
	hang := f.hang
	f.posts++
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("it is down")
	}
	var answers []bodies.Answer
	for _, x := range batch {
		a := bodies.AnswerDurable
		switch {
		case x.ask:
			if f.asked++; !f.has[x.body.Digest] {
				a = bodies.AnswerMissing
			}
		case f.refuse:
			a = bodies.AnswerRefused
		default:
			f.sent += len(x.body.Data)
			f.has[x.body.Digest] = true
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// pushWorld is a node with two fake members, 2 and 3; 2 leads.
type pushWorld struct {
	*pushes
	members map[string]*fakeMember
	status  *Status
}

func newPushWorld(t *testing.T) *pushWorld {
	w := &pushWorld{members: map[string]*fakeMember{"http://h2:1": {has: map[bodies.Digest]bool{}}, "http://h3:1": {has: map[bodies.Digest]bool{}}}, status: &Status{Leader: 2, Members: []Member{{ID: 1}, {ID: 2}, {ID: 3}}}}
	w.pushes = newPushes(func(ctx context.Context, url string, batch []*push) ([]bodies.Answer, error) {
		return w.members[url].post(ctx, batch)
	}, slog.New(slog.DiscardHandler))
	w.setPeer(2, "http://h2:1")
	w.setPeer(3, "http://h3:1")
	t.Cleanup(w.stop)
	return w
}

func (w *pushWorld) enough(d *distribution) bool {
	ok, err := w.judge(d, w.status, 1)
	return ok && err == nil
}

// A member is asked before it is sent what this node had already, and sent what it lacks.
func TestPushes_AskFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPushWorld(t)
		two, three := w.members["http://h2:1"], w.members["http://h3:1"]
		b := randomBody(1, 1000)
		two.has[b.Digest] = true
		d := w.start([]bodies.Body{b}, []bool{true})
		synctest.Wait()
		if !w.enough(d) || two.asked != 1 || two.sent != 0 || three.asked != 1 || three.sent != 1000 {
			t.Errorf("%+v, %+v", two, three)
		}
		w.end(d, true)
		w.stop()
	})
}

// The leader and a majority must have it; members that are down are tried again as long
// as somebody waits, and no longer.
func TestPushes_MemberDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPushWorld(t)
		two, three := w.members["http://h2:1"], w.members["http://h3:1"]
		two.down = true
		d := w.start([]bodies.Body{randomBody(1, 1000)}, []bool{false})
		synctest.Wait()
		if w.enough(d) || three.sent != 1000 {
			t.Errorf("enough without the leader, or %+v", three)
		}
		if w.status.Leader = 3; !w.enough(d) {
			t.Error("not enough with the new leader")
		}
		w.status.Leader = 2
		two.mu.Lock()
		two.down = false
		two.mu.Unlock()
		<-d.changed // of member 3
		<-d.changed
		if !w.enough(d) {
			t.Error("not enough with the leader back")
		}
		w.end(d, true)
		two.down = true
		d = w.start([]bodies.Body{randomBody(2, 1000)}, []bool{false})
		synctest.Wait()
		w.end(d, true)
		<-d.changed
		w.drained(t)
		posts := two.posts
		two.down = false
		d = w.start([]bodies.Body{randomBody(3, 1000)}, []bool{false})
		for !w.enough(d) {
			<-d.changed
		}
		if two.posts != posts+1 || two.has[randomBody(2, 1000).Digest] {
			t.Errorf("the member was tried %d times for nobody", two.posts-posts-1)
		}
		w.end(d, true)
		w.stop()
	})
}

// drained waits until nothing is queued, or on its way.
func (w *pushWorld) drained(t *testing.T) {
	t.Helper()
	synctest.Wait()
	for {
		w.mu.Lock()
		left := 0
		for _, q := range w.queues {
			left += len(q.list)
			if len(q.list) == 0 && q.late != 0 {
				t.Errorf("%d bytes count as queued", q.late)
			}
		}
		w.mu.Unlock()
		if left == 0 {
			return
		}
		<-time.After(time.Millisecond) // of the bubble's clock
	}
}

// What is kept for a member that is slow when nobody waits is bounded; the oldest goes.
func TestPushes_SlowMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPushWorld(t)
		w.members["http://h3:1"].hang = true
		data := make([]byte, 1<<20)
		for i := range 100 {
			d := w.start([]bodies.Body{{Digest: bodies.Digest{byte(i)}, Data: data}}, []bool{false})
			synctest.Wait()
			if !w.enough(d) {
				t.Fatalf("body %d waits for the slow member", i)
			}
			w.end(d, i%10 != 9)
			w.mu.Lock()
			q, sum := w.queues[3], 0
			for _, x := range q.list {
				sum += len(x.body.Data)
			}
			if q.late != sum || sum > pushLateBytes {
				t.Errorf("%d bytes are kept, and %d counted", sum, q.late)
			}
			w.mu.Unlock()
		}
		w.stop()
	})
}

// Without room at the leader, or at so many that no majority is left, there is no waiting.
func TestPushes_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPushWorld(t)
		w.members["http://h3:1"].refuse = true
		d := w.start([]bodies.Body{randomBody(1, 1000)}, []bool{false})
		synctest.Wait()
		if !w.enough(d) {
			t.Error("not enough, although the leader has it")
		}
		w.status.Leader = 3
		if ok, err := w.judge(d, w.status, 1); ok || !errors.Is(err, ErrDiskFull) {
			t.Errorf("with a leader without room: %v, %v", ok, err)
		}
		w.end(d, false)
		w.stop()
	})
}
