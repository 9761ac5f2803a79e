package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

func streamOf(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = binary.BigEndian.AppendUint64(b, uint64(p))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// hostileStreams are what a member that was taken over can send in a stream: by
// the path's part.
func hostileStreams() map[string]map[string][]byte {
	return map[string]map[string][]byte{
		"msgapp": {
			"countless entries":           streamOf("\x01", uint64(math.MaxUint64)),
			"2^40 entries":                streamOf("\x01", 1<<40),
			"an entry of 2^62 bytes":      streamOf("\x01", 1, 1<<62),
			"an entry of countless bytes": streamOf("\x01", 1, uint64(math.MaxUint64)),
			"an entry in pieces":          streamOf("\x01", 1, 3, "\xff\xff\xff", 0),
			"a message of 2^62 bytes":     streamOf("\x02", 1<<62),
			"a message in pieces":         streamOf("\x02", 3, "\xff\xff\xff"),
			"another kind":                streamOf("\x07"),
		},
		"message": {
			"a message of 2^62 bytes":   streamOf(1 << 62),
			"a message of 100 MiB":      streamOf(100<<20, "x"),
			"a message in pieces":       streamOf(3, "\xff\xff\xff"),
			"a message of -1 bytes":     streamOf(uint64(math.MaxUint64)),
			"a message that breaks off": streamOf(1000, "x"),
		},
	}
}

// A member that was taken over serves its streams as it likes. The node that reads
// them gives them up and goes on.
func TestTransport_HostileStreams_AreGivenUp(t *testing.T) {
	const self, other, cluster = ID(1), ID(2), ID(3)
	for path, streams := range hostileStreams() {
		for what, stream := range streams {
			t.Run(path+" "+strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
				dials := make(chan struct{}, 100)
				liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.HasPrefix(r.URL.Path, rafthttp.RaftStreamPrefix+"/"+path) {
						http.NotFound(w, r)
						return
					}
					w.Header().Set("X-Etcd-Cluster-Id", "3")
					w.Header().Set("X-Server-Version", "3.5.0")
					_, _ = w.Write(stream)
					select {
					case dials <- struct{}{}:
					default:
					}
				}))
				defer liar.Close()
				h, err := newHTTPTransport(self, cluster, "http://127.0.0.1:1", t.TempDir(), deafReceiver{}, make(chan error, 1), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				defer h.stop()
				h.setPeer(other, liar.URL)
				for range 3 { // what came first has been read when it is dialled again
					<-dials
				}
			})
		}
	}
}

// What members send comes through as it was sent.
func TestGuardStream_HonestStreams_AreNotChanged(t *testing.T) {
	t.Parallel()
	entry, err := (&raftpb.Entry{Term: 3, Index: 7, Data: bytes.Repeat([]byte("x"), 1<<20)}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Term: 3, Index: 8, Data: []byte("y")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for path, raw := range map[string][]byte{
		"/msgapp/1":  streamOf("\x00\x00\x01", 2, len(entry), entry, 0, 9, "\x02", len(m), m, "\x00\x01", 0, 12),
		"/message/1": streamOf(len(m), m, 0, len(m), m),
	} {
		for _, chunk := range []int{7, 1 << 22} {
			req := httptest.NewRequest(http.MethodGet, rafthttp.RaftStreamPrefix+path, nil)
			resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(raw))}
			guardStream(req, resp)
			var got bytes.Buffer
			if _, err := io.CopyBuffer(&got, struct{ io.Reader }{resp.Body}, make([]byte, chunk)); err != nil || !bytes.Equal(got.Bytes(), raw) {
				t.Errorf("%s by %d bytes: %d of %d bytes (%v)", path, chunk, got.Len(), len(raw), err)
			}
		}
	}
}

// FuzzGuardStream: whatever comes out of a guarded stream is what went in, from
// its start, and little memory is taken for it.
func FuzzGuardStream(f *testing.F) {
	for path, streams := range hostileStreams() {
		for _, stream := range streams {
			f.Add(path == "msgapp", stream)
		}
	}
	f.Fuzz(func(t *testing.T, appends bool, raw []byte) {
		path := rafthttp.RaftStreamPrefix + "/message/1"
		if appends {
			path = rafthttp.RaftStreamPrefix + "/msgapp/1"
		}
		resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(raw))}
		guardStream(httptest.NewRequest(http.MethodGet, path, nil), resp)
		got, err := io.ReadAll(resp.Body)
		if !bytes.HasPrefix(raw, got) {
			t.Fatalf("%x became %x", raw, got)
		}
		if err == nil && len(got) != len(raw) {
			t.Fatalf("%d of %d bytes, without an error", len(got), len(raw))
		}
		if err != nil && !errors.Is(err, errStream) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
}

// A stream may break off anywhere. What came whole before is seen, of the message
// that did not nothing, and whoever reads it learns that there should be more.
func TestGuardStream_BreaksOff(t *testing.T) {
	t.Parallel()
	entry, err := (&raftpb.Entry{Term: 3, Index: 7, Data: []byte("an entry")}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Term: 3, Index: 8, Data: []byte("y")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for path, messages := range map[string][][]byte{
		"/msgapp/1":  {streamOf("\x00"), streamOf("\x01", 2, len(entry), entry, 0, 9), streamOf("\x02", len(m), m), streamOf("\x01", 0, 12)},
		"/message/1": {streamOf(len(m), m), streamOf(0), streamOf(len(m), m)},
	} {
		raw := bytes.Join(messages, nil)
		for cut := range raw {
			whole, next := 0, 0
			for next+len(messages[whole]) <= cut {
				next += len(messages[whole])
				whole++
			}
			resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(raw[:cut]))}
			guardStream(httptest.NewRequest(http.MethodGet, rafthttp.RaftStreamPrefix+path, nil), resp)
			got, err := io.ReadAll(resp.Body)
			want := error(nil)
			if cut > next {
				want = io.ErrUnexpectedEOF
			}
			if !bytes.Equal(got, raw[:next]) || err != want {
				t.Errorf("%s, cut at byte %d: %d bytes and %v, want %d and %v", path, cut, len(got), err, next, want)
			}
		}
	}
}

// stumbling is a body that fails once, where at bytes are read, and then goes on.
type stumbling struct {
	io.Reader
	at  int
	err error
}

func (s *stumbling) Read(p []byte) (int, error) {
	if s.at == 0 && s.err != nil {
		err := s.err
		s.err = nil
		return 0, err
	}
	if s.err != nil {
		p = p[:min(len(p), s.at)]
	}
	n, err := s.Reader.Read(p)
	s.at -= n
	return n, err
}

// A read that fails ends the stream, with its error, whatever could be read after it.
func TestGuardStream_FailsOnce(t *testing.T) {
	t.Parallel()
	entry, err := (&raftpb.Entry{Term: 3, Index: 7, Data: []byte("an entry")}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m, err := (&raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Term: 3, Index: 8, Data: []byte("y")}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for path, message := range map[string][]byte{
		"/msgapp/1":  streamOf("\x01", 2, len(entry), entry, 0, 9),
		"/msgapp/2":  streamOf("\x02", len(m), m),
		"/message/1": streamOf(len(m), m),
	} {
		raw := bytes.Repeat(message, 3)
		for at := range raw {
			cause := errors.New("the line is bad")
			resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&stumbling{bytes.NewReader(raw), at, cause})}
			guardStream(httptest.NewRequest(http.MethodGet, rafthttp.RaftStreamPrefix+path, nil), resp)
			got, err := io.ReadAll(resp.Body)
			if whole := at / len(message) * len(message); len(got) != whole || err != cause {
				t.Errorf("%s, byte %d: %d bytes and %v, want %d and %v", path, at, len(got), err, whole, cause)
			}
			if n, err := resp.Body.Read(make([]byte, 10)); n > 0 || err != cause {
				t.Errorf("%s, byte %d: goes on after its end with %d bytes and %v", path, at, n, err)
			}
		}
	}
}

// An answer that is no stream, or of no stream's path, is left as it is.
func TestGuardStream_OfStreamsOnly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		path   string
		stream bool
	}{
		{http.StatusOK, rafthttp.RaftStreamPrefix + "/message/1", true},
		{http.StatusOK, rafthttp.RaftStreamPrefix + "/msgapp/1", true},
		{http.StatusGone, rafthttp.RaftStreamPrefix + "/message/1", false},
		{http.StatusOK, rafthttp.RaftPrefix, false},
	} {
		resp := &http.Response{StatusCode: c.status, Body: io.NopCloser(strings.NewReader("a sentence"))}
		if got := guardStream(httptest.NewRequest(http.MethodGet, c.path, nil), resp); got != c.stream {
			t.Errorf("%d of %s: a stream: %v", c.status, c.path, got)
		}
		if got, err := io.ReadAll(resp.Body); (err == nil && string(got) == "a sentence") == c.stream {
			t.Errorf("%d of %s: %q, %v", c.status, c.path, got, err)
		}
	}
}

// A large message does not keep its memory for the rest of the stream.
func TestGuardStream_GivesMemoryBack(t *testing.T) {
	raw := streamOf(4<<20, make([]byte, 4<<20), 3, "abc", 1<<20, make([]byte, 1<<20), 3, "abc")
	resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(raw))}
	guardStream(httptest.NewRequest(http.MethodGet, rafthttp.RaftStreamPrefix+"/message/1", nil), resp)
	g := resp.Body.(*streamGuard)
	read := func(n int) int {
		t.Helper()
		if _, err := io.ReadFull(resp.Body, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		return g.ready.Cap()
	}
	large, small, medium, last := read(8+4<<20), read(8+3), read(8+1<<20), read(8+3)
	if large < 4<<20 || small > 1<<20 || medium < 1<<20 || last != medium {
		t.Errorf("it holds %d bytes for 4 MiB, %d after that, %d for 1 MiB, %d after that", large, small, medium, last)
	}
}
