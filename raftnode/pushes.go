package raftnode

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

const (
	// pushBytes and pushFrames bound what is sent to a member at once.
	pushBytes  = 4 << 20
	pushFrames = 256
	// pushRequests are sent to one member at the same time: while it syncs one, the
	// next is on its way.
	pushRequests = 2
	// pushLateBytes bounds what is kept for a slow member when nobody waits for it any
	// more. It fetches the rest.
	pushLateBytes = 16 << 20
	// pushPauseMin and pushPauseMax bound the pause after an attempt that failed.
	pushPauseMin = 50 * time.Millisecond
	pushPauseMax = 500 * time.Millisecond
)

// pushes sends bodies to the other members, by goroutines for each. A member without
// answers is tried again as long as a call waits for it; other calls do not notice. It may
// be used from any goroutine.
type pushes struct {
	// post sends pushes to a member, and returns one answer for each.
	post   func(ctx context.Context, url string, taken []*push) ([]bodies.Answer, error)
	logger *slog.Logger

	mu      sync.Mutex
	queues  map[ID]*pushQueue
	stopped bool
	running sync.WaitGroup
}

// pushQueue is what a member shall be sent. It belongs to the lock of pushes.
type pushQueue struct {
	id     ID
	url    string
	list   []*push
	late   int // bytes in list that nobody waits for
	wake   signal
	cancel context.CancelFunc
}

// push is one body for one member.
type push struct {
	of     *distribution
	body   bodies.Body
	queue  *pushQueue
	ask    bool // whether the member has it, before it is sent
	queued bool // it is in queue.list; belongs to the lock of pushes
}

func (p *push) ref() bodies.Ref { return bodies.Ref{Digest: p.body.Digest, Size: len(p.body.Data)} }

// distribution is one call of Distribute.
type distribution struct {
	list    []bodies.Body
	changed signal // a member has answered

	// These belong to the lock of pushes.
	all   []*push
	ended bool
	left  map[ID]int  // how many of the bodies a member has not confirmed
	full  map[ID]bool // members that have no room for one
}

func newPushes(post func(context.Context, string, []*push) ([]bodies.Answer, error), logger *slog.Logger) *pushes {
	return &pushes{post: post, logger: logger, queues: map[ID]*pushQueue{}}
}

// setPeer adds or updates a member; an empty URL removes it.
func (p *pushes) setPeer(id ID, url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queues[id]
	switch {
	case p.stopped:
	case url == "" || checkForm(url) != nil:
		if q != nil {
			q.cancel()
			delete(p.queues, id)
		}
	case q != nil:
		q.url = url
	default:
		ctx, cancel := context.WithCancel(context.Background())
		q = &pushQueue{id: id, url: url, wake: newSignal(), cancel: cancel}
		p.queues[id] = q
		for range pushRequests {
			p.running.Go(func() { p.run(ctx, q) })
		}
	}
}

// stop ends all that is on its way, and waits for it.
func (p *pushes) stop() {
	p.mu.Lock()
	p.stopped = true
	for _, q := range p.queues {
		q.cancel()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// start queues bodies for every member. Members probably have those that this node knew
// before, and are asked first.
func (p *pushes) start(list []bodies.Body, known []bool) *distribution {
	d := &distribution{list: list, changed: newSignal(), left: map[ID]int{}, full: map[ID]bool{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.queues {
		for i, b := range list {
			x := &push{of: d, body: b, queue: q, ask: known[i], queued: true}
			d.all = append(d.all, x)
			q.list = append(q.list, x)
		}
		d.left[q.id] = len(list)
		q.wake.send()
	}
	return d
}

// judge reports whether the leader and enough voters have the bodies of a distribution, or
// returns why they never will.
func (p *pushes) judge(d *distribution, st *Status, self ID) (enough bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	has := func(id ID) bool {
		left, asked := d.left[id]
		return id == self || asked && left == 0
	}
	voters, have, full := 0, 0, 0
	for _, m := range st.Members {
		switch {
		case m.Learner:
			continue
		case has(m.ID):
			have++
		case d.full[m.ID]:
			full++
		}
		voters++
	}
	switch {
	case st.Leader == 0 || voters == 0:
		return false, nil
	case have > voters/2 && has(st.Leader):
		return true, nil
	case d.full[st.Leader] || voters-full <= voters/2:
		return false, ErrDiskFull
	}
	return false, nil
}

// end is called when nobody waits for a distribution any more. With late, members that have
// not confirmed it still get it if they are not far behind.
func (p *pushes) end(d *distribution, late bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.ended = true
	for _, x := range d.all {
		if x.queued {
			x.queue.late += len(x.body.Data)
		}
	}
	for _, x := range d.all {
		switch q := x.queue; {
		case !x.queued:
		case !late:
			q.drop(func(y *push) bool { return y.of == d })
		case q.late > pushLateBytes:
			q.drop(func(y *push) bool { return y.of.ended && q.late > pushLateBytes/2 })
		}
	}
	d.all = nil
}

// drop takes out of the queue what nobody waits for and is unwanted, oldest first.
func (q *pushQueue) drop(unwanted func(*push) bool) {
	q.list = slices.DeleteFunc(q.list, func(x *push) bool {
		if !unwanted(x) {
			return false
		}
		x.queued = false
		q.late -= len(x.body.Data)
		return true
	})
}

// run sends what is queued for a member, until ctx ends.
func (p *pushes) run(ctx context.Context, q *pushQueue) {
	pause := pushPauseMin
	for {
		url, taken := p.take(q)
		if len(taken) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		answers, err := p.post(ctx, url, taken)
		busy := p.note(q, taken, answers)
		if err == nil && !busy {
			pause = pushPauseMin
			continue
		}
		if err != nil && ctx.Err() == nil {
			p.logger.Debug("sending bodies failed", "to", q.id.String(), "err", err)
		}
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, pushPauseMax)
	}
}

// take takes out of a queue what is sent at once.
func (p *pushes) take(q *pushQueue) (url string, taken []*push) {
	p.mu.Lock()
	defer p.mu.Unlock()
	bytes := 0
	for len(taken) < min(len(q.list), pushFrames) {
		x := q.list[len(taken)]
		if !x.ask {
			if len(taken) > 0 && bytes+len(x.body.Data) > pushBytes {
				break
			}
			bytes += len(x.body.Data)
		}
		x.queued = false
		if x.of.ended {
			q.late -= len(x.body.Data)
		}
		taken = append(taken, x)
	}
	q.list = slices.Delete(q.list, 0, len(taken))
	if len(q.list) > 0 {
		q.wake.send() // for the other goroutine
	}
	return q.url, taken
}

// answerBusy stands for the answer of a member that asks to be sent a body later.
const answerBusy bodies.Answer = 0

// note takes a member's answers to what was taken. It queues again what has none, as long as
// somebody waits for it, and reports whether there is such.
func (p *pushes) note(q *pushQueue, taken []*push, answers []bodies.Answer) (busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var again []*push
	for i, x := range taken {
		answer := answerBusy
		if i < len(answers) {
			answer = answers[i]
		}
		d := x.of
		switch {
		case answer == bodies.AnswerDurable:
			if d.left[q.id]--; d.left[q.id] > 0 {
				continue
			}
		case answer == bodies.AnswerRefused:
			d.full[q.id] = true
		case answer == bodies.AnswerMissing && x.ask:
			x.ask = false
			again = append(again, x)
			continue
		default:
			busy = true
			if !d.ended {
				again = append(again, x)
			}
			continue
		}
		d.changed.send()
	}
	for _, x := range again {
		x.queued = true
		if x.of.ended {
			q.late += len(x.body.Data)
		}
	}
	if len(again) > 0 {
		q.list = slices.Insert(q.list, 0, again...)
		q.wake.send()
	}
	return busy
}

// peerTransport is the transport of a node with bodies: it pushes them to the members that
// it sends messages to.
type peerTransport struct {
	*httpTransport
	pushes   *pushes
	arrivals *arrivals
	client   *http.Client
}

func (t peerTransport) setPeer(id ID, url string) {
	t.httpTransport.setPeer(id, url)
	if id != t.self {
		t.pushes.setPeer(id, url)
	}
}

func (t peerTransport) stop() {
	t.pushes.stop()
	t.httpTransport.stop()
	t.arrivals.stop()
	t.client.CloseIdleConnections()
}
