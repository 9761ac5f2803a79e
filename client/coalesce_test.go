package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
)

// framesNode is a node that knows frames. What they ask for is for answer, which
// is called on a goroutine of its own for each and returns the answer; nil says
// nothing. Requests of their own are for alone.
type framesNode struct {
	t       *testing.T
	url     string
	server  *httptest.Server
	streams atomic.Int64 // that were opened
	frames  atomic.Int64
	singles atomic.Int64
	answer  func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte
	alone   http.HandlerFunc
	open    func(w http.ResponseWriter, r *http.Request) bool // whether to take a stream
	broken  atomic.Bool                                       // breaks every stream off at its next frame
	breaks  func(frames int64) bool                           // whether to break the stream off at this frame; nil: never
}

func newFramesNode(t *testing.T) *framesNode {
	n := &framesNode{t: t, answer: echoFrame, alone: acceptPut}
	n.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/keys") && (n.open == nil || n.open(w, r)) {
			n.streams.Add(1)
			n.stream(w, r)
		} else if r.Method != http.MethodPost {
			n.singles.Add(1)
			n.alone(w, r)
		}
	}))
	n.server.Config.ErrorLog = nil
	n.server.Start()
	n.url = n.server.URL
	t.Cleanup(n.server.Close)
	return n
}

func (n *framesNode) stream(w http.ResponseWriter, r *http.Request) {
	conn := http.NewResponseController(w)
	conn.EnableFullDuplex()
	w.WriteHeader(http.StatusContinue)
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Type", api.ContentTypeFrames)
	w.WriteHeader(http.StatusOK)
	conn.Flush()
	var mu sync.Mutex
	var answering sync.WaitGroup
	defer answering.Wait()
	frames := frame.NewReader(r.Body)
	for {
		f, err := frames.Next()
		if err != nil {
			return
		}
		if count := n.frames.Add(1); n.broken.Load() || n.breaks != nil && n.breaks(count) {
			panic(http.ErrAbortHandler)
		}
		var put *frame.Put
		var get *frame.Get
		if f.Kind == frame.KindPut {
			p, _ := f.Put()
			p.Value = bytes.Clone(p.Value)
			put = &p
		} else {
			g, _ := f.Get()
			get = &g
		}
		answering.Go(func() {
			out := n.answer(nil, frame.Frame{Kind: f.Kind, ID: f.ID}, put, get)
			mu.Lock()
			defer mu.Unlock()
			w.Write(out)
			conn.Flush()
		})
	}
}

// echoFrame sets every key, and has for every key its name as the value.
func echoFrame(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
	if put != nil {
		return frame.AppendSet(out, &frame.Set{ID: f.ID, Created: true, Winner: frame.Winner{Revision: 7, Size: uint64(len(put.Value)), Digest: sha256.Sum256(put.Value)}})
	}
	return frame.AppendValue(out, &frame.Value{ID: f.ID, Revision: 7, Time: 5, Digest: sha256.Sum256([]byte(get.Key)), ContentType: "text/x", Cache: "hit", Value: []byte(get.Key)})
}

// togetherClient is a client whose calls are never alone, with streams to its
// first endpoint up.
func togetherClient(t *testing.T, endpoints ...string) *Client {
	t.Helper()
	return impatientClient(t, idleTimeoutDefault, endpoints...)
}

func impatientClient(t *testing.T, idle time.Duration, endpoints ...string) *Client {
	t.Helper()
	c, err := New(Config{Endpoints: endpoints, IdleTimeout: idle})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c.together.putting.Add(1)
	c.together.getting.Add(1)
	up(t, c.together.puts[0])
	up(t, c.together.gets[0])
	return c
}

func up(t *testing.T, l *mux.Lane) {
	t.Helper()
	eventually(t, "a stream is up", func() bool { return l.Stream() != nil })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			var stacks [1 << 16]byte
			t.Fatalf("not within 30 s: %s\n%s", what, stacks[:runtime.Stack(stacks[:], true)])
		}
	}
}

// TestCoalesce_Alone: calls that follow one another are requests of their own.
func TestCoalesce_Alone(t *testing.T) {
	n := newFramesNode(t)
	c, _ := newClient(t, n.url)
	for range 5 {
		if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if n.streams.Load() != 0 || n.singles.Load() != 5 {
		t.Errorf("%d streams, %d requests", n.streams.Load(), n.singles.Load())
	}
}

// TestCoalesce: many calls travel in one request each way, and each gets its own
// answer.
func TestCoalesce(t *testing.T) {
	n := newFramesNode(t)
	c := togetherClient(t, n.url)
	var calls sync.WaitGroup
	for i := range 300 {
		calls.Go(func() {
			key, value := fmt.Sprint("key/", i), bytes.Repeat([]byte{byte(i)}, i)
			put := func() (PutAnswer, error) { return c.PutBytes(t.Context(), key, value, PutOptions{}) }
			if i%2 == 1 {
				put = func() (PutAnswer, error) { return c.Put(t.Context(), key, bytes.NewReader(value), PutOptions{}) }
			}
			a, err := put()
			if want := (PutAnswer{Key: key, Revision: 7, SHA256: digestOf(value), Size: int64(i), Created: true}); err != nil || a != want {
				t.Errorf("put %d: %+v, %v", i, a, err)
			}
			o, err := c.Get(t.Context(), key, GetOptions{})
			if err != nil {
				t.Errorf("get %d: %v", i, err)
				return
			}
			got, err := io.ReadAll(o.Body)
			if err != nil || string(got) != key || o.Key != key || o.Size != int64(len(key)) || o.SHA256 != digestOf(got) || o.Cache != "hit" ||
				o.ContentType != "text/x" || !o.Time.Equal(time.Unix(0, 5)) || o.Revision != 7 {
				t.Errorf("get %d: %q, %+v, %v", i, got, o, err)
			}
			if err := o.Body.Close(); err != nil {
				t.Error(err)
			}
			if _, err := o.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("read of a closed body: %v", err)
			}
		})
	}
	calls.Wait()
	if n.streams.Load() != 2 || n.singles.Load() != 0 || n.frames.Load() != 600 {
		t.Errorf("%d streams, %d frames, %d requests", n.streams.Load(), n.frames.Load(), n.singles.Load())
	}
}

// TestCoalesce_Options: what a put and a get are asked to do goes along.
func TestCoalesce_Options(t *testing.T) {
	n := newFramesNode(t)
	var seen sync.Map
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put != nil {
			p := *put
			p.ID = 0
			seen.Store(p.Key, p)
		} else {
			seen.Store(get.Key, get.Local)
		}
		return echoFrame(out, f, put, get)
	}
	c := togetherClient(t, n.url)
	sum := sha256.Sum256([]byte("v"))
	c.PutBytes(t.Context(), "a", []byte("v"), PutOptions{ContentType: "text/x", PutID: "id", IfAbsent: true})
	c.PutBytes(t.Context(), "b", []byte("v"), PutOptions{KeepExisting: true, SHA256: &[32]byte{1}})
	c.Get(t.Context(), "c", GetOptions{Local: true})
	c.Get(t.Context(), "d", GetOptions{})
	a, _ := seen.Load("a")
	if want := fmt.Sprint(frame.Put{Key: "a", Value: []byte("v"), ContentType: "text/x", PutID: "id", IfAbsent: true, HasDigest: true, Digest: sum}); fmt.Sprint(a) != want {
		t.Errorf("sent %v, want %v", a, want)
	}
	v, _ := seen.Load("b")
	if b := v.(frame.Put); len(b.PutID) != 32 || !b.Keep || b.IfAbsent || b.Digest != [32]byte{1} {
		t.Errorf("sent %+v", b)
	}
	for key, local := range map[string]bool{"c": true, "d": false} {
		if got, ok := seen.Load(key); !ok || got != local {
			t.Errorf("get %s: local %v", key, got)
		}
	}
}

// TestCoalesce_Metadata: metadata goes both ways in frames, and the stream says which
// history its answers are of.
func TestCoalesce_Metadata(t *testing.T) {
	n := newFramesNode(t)
	n.open = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set(api.HeaderHistory, oldHistory)
		return true
	}
	var mu sync.Mutex
	kept := map[string]map[string]string{}
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		mu.Lock()
		defer mu.Unlock()
		if put != nil {
			kept[put.Key] = put.Meta
			return echoFrame(out, f, put, get)
		}
		return frame.AppendValue(out, &frame.Value{ID: f.ID, Revision: 7, Digest: sha256.Sum256(nil), By: "someone", Meta: kept[get.Key]})
	}
	c := togetherClient(t, n.url)
	for key, meta := range map[string]map[string]string{"plain": nil, "source": {"source": "a b", "empty": ""}} {
		answer, err := c.PutBytes(t.Context(), key, []byte("v"), PutOptions{Meta: meta})
		if err != nil || answer.History != oldHistory {
			t.Errorf("put %s: %+v, %v", key, answer, err)
		}
		o, err := c.Get(t.Context(), key, GetOptions{})
		if err != nil || o.By != "someone" || !sameMeta(o.Meta, meta) || (o.Meta == nil) != (meta == nil) {
			t.Errorf("get %s: %+v, %v", key, o, err)
		}
	}
	if _, err := c.PutBytes(t.Context(), "wrong", nil, PutOptions{Meta: map[string]string{"A": "v"}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a name that no node takes: %v", err)
	}
	if c.histories.last != oldHistory || n.singles.Load() != 0 || n.frames.Load() != 4 {
		t.Errorf("history %q, %d requests, %d frames", c.histories.last, n.singles.Load(), n.frames.Load())
	}
}

// TestCoalesce_ErrorsSurviveTheWire: a problem in a frame is the error that the
// same problem is as a document.
func TestCoalesce_ErrorsSurviveTheWire(t *testing.T) {
	n := newFramesNode(t)
	winner := frame.Winner{Revision: 9, Size: 3, Digest: sha256.Sum256([]byte("won"))}
	problems := map[string]frame.Problem{
		"conflict": {Status: 409, Type: api.ProblemConflict, Title: "t", Detail: "lost", HasWinner: true, Winner: winner},
		"exists":   {Status: 412, Type: api.ProblemPrecondition, Title: "t", Detail: "there", HasWinner: true, Winner: winner},
		"invalid":  {Status: 400, Type: api.ProblemInvalid, Title: "t", Detail: "bad"},
		"digest":   {Status: 400, Type: api.ProblemDigestMismatch, Title: "t", Detail: "bad"},
		"large":    {Status: 413, Type: api.ProblemTooLarge, Title: "t", Detail: "large", HasLimit: true, Limit: 3},
		"gone":     {Status: 410, Type: api.ProblemGone, Title: "t", Detail: "gone"},
		"absent":   {Status: 404, Type: api.ProblemNotFound, Title: "t", Detail: "absent"},
		"disk":     {Status: 507, Type: api.ProblemDiskReserve, Title: "t", Detail: "full"},
	}
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		key := ""
		if put != nil {
			key = put.Key
		} else {
			key = get.Key
		}
		p := problems[key]
		p.ID = f.ID
		return frame.AppendProblem(out, &p)
	}
	n.alone = func(w http.ResponseWriter, r *http.Request) {
		p := problems[strings.TrimPrefix(r.URL.Path, "/key/")]
		problem(w, problemOf(&p))
	}
	c := togetherClient(t, n.url)
	single, err := New(Config{Endpoints: []string{n.url}, SingleRequests: true})
	if err != nil {
		t.Fatal(err)
	}
	for key := range problems {
		for _, call := range []func(*Client) error{
			func(c *Client) error { _, err := c.PutBytes(t.Context(), key, nil, PutOptions{}); return err },
			func(c *Client) error { _, err := c.Get(t.Context(), key, GetOptions{}); return err },
		} {
			got, want := call(c), call(single)
			if got == nil || got.Error() != want.Error() {
				t.Errorf("%s: %v, alone %v", key, got, want)
			}
			for _, kind := range []error{ErrInvalid, ErrDigestMismatch, ErrNotFound, ErrConflict, ErrExists, ErrTooLarge, ErrDiskReserve, ErrUnavailable, ErrOutcomeUnknown} {
				if errors.Is(got, kind) != errors.Is(want, kind) {
					t.Errorf("%s: is %v: %v", key, kind, errors.Is(got, kind))
				}
			}
			var lost, lostAlone *ConflictError
			if errors.As(got, &lost) != errors.As(want, &lostAlone) || lost != nil && *lost != *lostAlone {
				t.Errorf("%s: %+v, alone %+v", key, lost, lostAlone)
			}
			if (key == "conflict" || key == "exists") && (lost == nil || lost.Revision != 9 || lost.SHA256 != hex.EncodeToString(winner.Digest[:])) {
				t.Errorf("%s: %+v", key, lost)
			}
		}
	}
}

// TestCoalesce_ChangedBytes: what was changed on the way is noticed, either way.
func TestCoalesce_ChangedBytes(t *testing.T) {
	n := newFramesNode(t)
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put != nil {
			put.Value = []byte("other")
		} else {
			return frame.AppendValue(out, &frame.Value{ID: f.ID, Revision: 1, Digest: sha256.Sum256([]byte("v")), Value: []byte("other")})
		}
		return echoFrame(out, f, put, get)
	}
	c := togetherClient(t, n.url)
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("put: %v", err)
	}
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{KeepExisting: true}); err != nil {
		t.Errorf("put that keeps: %v", err)
	}
	o, err := c.Get(t.Context(), "k", GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(o.Body); !errors.Is(err, ErrDigestMismatch) || len(got) == 5 {
		t.Errorf("read %q, %v", got, err)
	}
	o, _ = c.Get(t.Context(), "k", GetOptions{})
	if m, err := io.Copy(io.Discard, o.Body); !errors.Is(err, ErrDigestMismatch) || m == 5 {
		t.Errorf("copied %d bytes, %v", m, err)
	}
}

// TestCoalesce_OldNode: an endpoint that does not know frames is used as before,
// and not asked again for each call.
func TestCoalesce_OldNode(t *testing.T) {
	for name, refuse := range map[string]http.HandlerFunc{
		"lines": func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusContinue)
			w.Header().Set("Connection", "close")
			w.Header().Set("Content-Type", api.ContentTypeNDJSON)
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			io.Copy(io.Discard, r.Body)
		},
		"404": func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemNoRoute, Status: 404})
		},
		"405": func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemMethod, Status: 405})
		},
		"415": func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemUnsupportedMedia, Status: 415})
		},
		"429": func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemOverloaded, Status: 429})
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newFramesNode(t)
			asked := make(chan struct{}, 100)
			n.open = func(w http.ResponseWriter, r *http.Request) bool {
				asked <- struct{}{}
				refuse(w, r)
				return false
			}
			c, _ := newClient(t, n.url)
			defer c.Close()
			c.together.putting.Add(1)
			l := c.together.puts[0]
			put := func() {
				t.Helper()
				if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			put()
			<-asked
			l.Await(t.Context())
			for range 20 {
				put()
			}
			if n.singles.Load() != 21 || len(asked) != 0 {
				t.Errorf("%d requests, asked %d times more", n.singles.Load(), len(asked))
			}
		})
	}
}

// TestCoalesce_Cancelled: a caller that goes gets its own error at once, and
// disturbs nobody.
func TestCoalesce_Cancelled(t *testing.T) {
	n := newFramesNode(t)
	gate := make(chan struct{})
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put != nil && put.Key == "held" {
			<-gate
		}
		return echoFrame(out, f, put, get)
	}
	c := togetherClient(t, n.url)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.PutBytes(ctx, "held", []byte("v"), PutOptions{})
		ended <- err
	}()
	eventually(t, "the frame is there", func() bool { return n.frames.Load() == 1 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("the call that was given up: %v", err)
	}
	close(gate) // its answer comes, for nobody
	for range 3 {
		if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
			t.Error(err)
		}
	}
	if n.streams.Load() != 2 || n.singles.Load() != 0 {
		t.Errorf("%d streams, %d requests", n.streams.Load(), n.singles.Load())
	}
	if _, err := c.PutBytes(ctx, "k", []byte("v"), PutOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call whose context has ended: %v", err)
	}
}

// TestCoalesce_SeeksTheLeader: a client whose stream of puts is at a node that does
// not lead asks who does, and goes there at once.
func TestCoalesce_SeeksTheLeader(t *testing.T) {
	follower, leader := newFramesNode(t), newFramesNode(t)
	ping := func(role string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				acceptPut(w, r)
				return
			}
			if role != "" {
				w.Header().Set(api.HeaderRole, role)
			}
			io.WriteString(w, "pong")
		}
	}
	follower.alone, leader.alone = ping(""), ping(RoleLeader)
	follower.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		<-time.After(20 * time.Millisecond) // it asks the leader, who is as far from the client
		return echoFrame(out, f, put, get)
	}
	c := togetherClient(t, follower.url, leader.url)
	eventually(t, "puts go to the leader", func() bool {
		if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil {
			t.Fatal(err)
		}
		return c.ranking.first(true) == 1 && leader.frames.Load() > 0
	})
}

// TestCoalesce_Hung: calls on a stream that says nothing go elsewhere.
func TestCoalesce_Hung(t *testing.T) {
	hung, other := newFramesNode(t), newFramesNode(t)
	gate := make(chan struct{})
	defer close(gate)
	hung.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { <-gate; return nil }
	hung.alone = func(http.ResponseWriter, *http.Request) { <-gate }
	c := impatientClient(t, time.Second, hung.url, other.url)
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			if _, err := c.PutBytes(within(t, time.Minute), fmt.Sprint(i), []byte("v"), PutOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

// TestCoalesce_Silent: with nowhere else to go, a stream that says nothing for
// the idle timeout is given up, and with it what waits on it.
func TestCoalesce_Silent(t *testing.T) {
	n := newFramesNode(t)
	gate := make(chan struct{})
	defer close(gate)
	n.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { <-gate; return nil }
	c := impatientClient(t, 100*time.Millisecond, n.url)
	if a, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil || n.singles.Load() == 0 {
		t.Errorf("%+v, %v: %d requests", a, err, n.singles.Load())
	}
}

// TestCoalesce_Broken: the calls of a stream that breaks off are tried elsewhere,
// with the same put ids.
func TestCoalesce_Broken(t *testing.T) {
	dies, other := newFramesNode(t), newFramesNode(t)
	var first, second sync.Map // put id by key
	dies.answer = func(_ []byte, _ frame.Frame, put *frame.Put, _ *frame.Get) []byte {
		if put != nil {
			first.Store(put.Key, put.PutID)
		}
		return nil // never
	}
	dies.alone = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	other.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if put != nil {
			second.Store(put.Key, put.PutID)
		}
		return echoFrame(out, f, put, get)
	}
	other.alone = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			second.Store(strings.TrimPrefix(r.URL.Path, "/key/"), r.Header.Get(api.HeaderPutID))
			acceptPut(w, r)
			return
		}
		serveValue(w, digestOf([]byte("v")), []byte("v"))
	}
	c := togetherClient(t, dies.url, other.url)
	var calls sync.WaitGroup
	const puts = 50
	for i := range puts {
		calls.Go(func() {
			if a, err := c.PutBytes(t.Context(), fmt.Sprint(i), []byte("v"), PutOptions{}); err != nil || !a.Created {
				t.Errorf("%+v, %v", a, err)
			}
		})
		calls.Go(func() {
			if o, err := c.Get(t.Context(), fmt.Sprint(i), GetOptions{}); err != nil {
				t.Error(err)
			} else {
				o.Body.Close()
			}
		})
	}
	eventually(t, "all calls are on their way", func() bool { return dies.frames.Load() == 2*puts })
	dies.server.CloseClientConnections()
	calls.Wait()
	for i := range puts {
		a, _ := first.Load(fmt.Sprint(i))
		b, _ := second.Load(fmt.Sprint(i))
		if a == nil || a != b {
			t.Errorf("put %d has the ids %v and %v", i, a, b)
		}
	}
}

// TestCoalesce_Outcome: what is known about a put whose stream ended is what is
// said: not taken, or perhaps.
func TestCoalesce_Outcome(t *testing.T) {
	for name, tt := range map[string]struct {
		answer []byte
		want   error
	}{
		"ended":  {frame.AppendProblem(nil, &frame.Problem{Status: 503, Type: api.ProblemUnavailable, Detail: "stopping"}), ErrUnavailable},
		"broken": {[]byte("\xff\xff\xff\xff\xff"), ErrOutcomeUnknown},
	} {
		n := newFramesNode(t)
		n.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { return tt.answer }
		n.alone = func(w http.ResponseWriter, r *http.Request) {
			problem(w, Problem{Type: api.ProblemUnavailable, Status: 503})
		}
		c := togetherClient(t, n.url)
		c.wait = func(context.Context, time.Duration) error { return context.Canceled } // one round
		if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestCoalesce_Large: what is large goes alone, both ways.
func TestCoalesce_Large(t *testing.T) {
	n := newFramesNode(t)
	n.answer = func(out []byte, f frame.Frame, put *frame.Put, get *frame.Get) []byte {
		if get != nil {
			return frame.AppendLarge(out, f.ID)
		}
		return echoFrame(out, f, put, get)
	}
	value := bytes.Repeat([]byte("v"), coalesceBytesMax+1)
	n.alone = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			serveValue(w, digestOf(value), value)
			return
		}
		acceptPut(w, r)
	}
	c := togetherClient(t, n.url)
	for _, size := range []int{0, coalesceBytesMax, coalesceBytesMax + 1} {
		if a, err := c.PutBytes(t.Context(), "k", value[:size], PutOptions{}); err != nil || a.Size != int64(size) && n.singles.Load() == 0 {
			t.Errorf("%d bytes: %+v, %v", size, a, err)
		}
	}
	if n.singles.Load() != 1 || n.frames.Load() != 2 {
		t.Errorf("%d requests, %d frames", n.singles.Load(), n.frames.Load())
	}
	o, err := c.Get(t.Context(), "k", GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, value) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestCoalesce_Close: closing a client leaves no goroutine; its calls go on.
func TestCoalesce_Close(t *testing.T) {
	n := newFramesNode(t)
	gate := make(chan struct{})
	n.answer = func([]byte, frame.Frame, *frame.Put, *frame.Get) []byte { <-gate; return nil }
	before := runtime.NumGoroutine()
	c, _ := newClient(t, n.url)
	c.together.putting.Add(1)
	up(t, c.together.puts[0])
	ended := make(chan error, 1)
	go func() {
		_, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{})
		ended <- err
	}()
	eventually(t, "the frame is there", func() bool { return n.frames.Load() == 1 })
	c.Close()
	close(gate)
	if err := <-ended; err != nil || n.singles.Load() != 1 {
		t.Errorf("the call under way: %v, %d requests", err, n.singles.Load())
	}
	if _, err := c.PutBytes(t.Context(), "k", []byte("v"), PutOptions{}); err != nil || n.streams.Load() != 1 {
		t.Errorf("a later call: %v, %d streams", err, n.streams.Load())
	}
	c.Close()
	eventually(t, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
}
