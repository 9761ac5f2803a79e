package cachetier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

func TestStreamedValue_OfEverySize(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	for i, size := range []int{inlineBytesMax, inlineBytesMax + 1, 3 << 19, 40 << 20} {
		body := pattern(size)
		want := keys.put(fmt.Sprint("large-", i), body)
		for _, n := range nodes {
			mustGet(t, n, want)
			v, source, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			if _, inline := v.Bytes(); inline != (int64(size) <= n.cfg.CacheBytes/s3fifo.LargestShare-pageBytes) {
				t.Errorf("%d bytes are held after they were read: %v (%s)", size, inline, source)
			}
			checkRanges(t, v, body)
		}
	}
	if s := nodes[0].Stats(); s.Bytes > 6<<20 {
		t.Errorf("%d bytes are held after values of 40 MiB passed", s.Bytes)
	}
}

// A large value is held when it was read to its end, and no other way: from then
// on its ranges and all of it come from memory.
func TestStreamedValue_IsHeldWhenItWasReadWhole(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	want := keys.put("large", pattern(3<<20))
	for _, n := range nodes {
		get := func() *kvstore.Value {
			v, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		held := func() bool { _, inline := get().Bytes(); return inline }
		v := get()
		part := v.Open(t.Context())
		if _, err := io.CopyN(io.Discard, part, 2<<20); err != nil {
			t.Fatal(err)
		}
		other := v.Open(t.Context()) // while the first one's bytes are kept
		if _, err := io.Copy(io.Discard, other); err != nil || held() {
			t.Errorf("a second reader's bytes are kept too: %v", err)
		}
		part.Close()
		checkRanges(t, v, want.body)
		if held() {
			t.Error("held after it was read in parts")
		}
		seeking := v.Open(t.Context())
		if _, err := io.CopyN(io.Discard, seeking, 1<<20); err != nil {
			t.Fatal(err)
		}
		seeking.Seek(2<<20, io.SeekStart)
		if _, err := io.Copy(io.Discard, seeking); err != nil || held() {
			t.Errorf("held without its middle: %v", err)
		}
		for _, r := range []io.Closer{other, seeking} {
			r.Close()
		}
		if got := readAll(t, v); !bytes.Equal(got, want.body) || !held() {
			t.Error("not held after it was read whole")
		}
		if n.collecting.bytes != 0 || len(n.collecting.keys) != 0 {
			t.Errorf("%d bytes of %v are still on their way", n.collecting.bytes, n.collecting.keys)
		}
		bounded(t, n.memory, n.cfg.CacheBytes)
	}
	reads := db.readsOf("large")
	for _, n := range nodes {
		mustGet(t, n, want)
		v, _, _ := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
		checkRanges(t, v, want.body)
	}
	if got := db.readsOf("large"); got != reads {
		t.Errorf("the database was read %d times for a value that is held", got-reads)
	}
}

// Of a value that is not held with its bytes, a range costs the database little
// more than the range.
func TestStreamedValue_RangeReadsLittleMore(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, db)
	want := keys.put("large", pattern(8<<20))
	v, _, err := n.Get(t.Context(), want.meta.Key, kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		asked = append(asked, r.Header.Get("Range"))
		return false
	})
	r := v.Open(t.Context())
	defer r.Close()
	r.Seek(5<<20, io.SeekStart)
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(asked); got != fmt.Sprintf("[bytes=%d-%d]", 5<<20, 5<<20+windowSeek-1) {
		t.Errorf("the database was asked %s for 100 bytes", got)
	}
}

// pattern makes bytes in which every offset looks different from its
// neighbours.
func pattern(size int) []byte {
	b := make([]byte, size)
	seed := sha256.Sum256([]byte(fmt.Sprint(size)))
	for i := range b {
		b[i] = seed[i%32] ^ byte(i>>5) ^ byte(i>>13) ^ byte(i>>21)
	}
	return b
}

func checkRanges(t *testing.T, v *kvstore.Value, body []byte) {
	t.Helper()
	r := v.Open(t.Context())
	defer r.Close()
	for _, from := range []int{0, 1, len(body) / 2, len(body) - 17, 1048570} {
		if from >= len(body) {
			continue
		}
		if _, err := r.Seek(int64(from), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, min(100, len(body)-from))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, body[from:from+len(got)]) {
			t.Fatalf("range from %d: %v", from, err)
		}
	}
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(len(body)) {
		t.Errorf("end at %d, %v", end, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a seek before the beginning is fine")
	}
}

func TestStreamedValue_DatabaseDiesHalfWay(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"broken connection", "stall", "another value"} {
		t.Run(way, func(t *testing.T) {
			keys := newFakeKeys()
			dying, good := newFakeDB(t, keys), newFakeDB(t, keys)
			n := newTestNode(t, func(cfg *NodeConfig) { cfg.StreamIdle = 3 * time.Second }, dying, good)
			n.databases.begin([]string{dying.URL, good.URL})
			want := keys.put("large", pattern(5<<20))
			v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
			if err != nil {
				t.Fatal(err)
			}
			dying.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
				var from, to int
				fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to)
				if from < 1<<20 {
					return false
				}
				shown := want
				if way == "another value" {
					shown.meta.SHA256 = kvstore.Digest{1}
				}
				fakeHeader(w, shown)
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(want.body)))
				w.Header().Set("Content-Length", fmt.Sprint(to-from+1))
				w.WriteHeader(http.StatusPartialContent)
				w.Write(want.body[from : from+12345])
				http.NewResponseController(w).Flush()
				if way == "stall" {
					<-r.Context().Done()
				}
				panic(http.ErrAbortHandler)
			})
			if got := readAll(t, v); !bytes.Equal(got, want.body) {
				t.Error("the value is not whole")
			}
			if good.readsOf("large") == 0 {
				t.Error("the other database was not asked")
			}
		})
	}
}

func TestStreamedValue_AllDatabasesDie(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	want := keys.put("large", pattern(5<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	r := v.Open(t.Context())
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	db.Close()
	rest, err := io.ReadAll(r)
	if !errors.Is(err, kvstore.ErrUnavailable) || !strings.Contains(err.Error(), db.URL) {
		t.Errorf("read %d more bytes of %d, then %v", len(rest), len(want.body), err)
	}
}

func TestStreamedValue_WrongBytesAreNeverSeenWhole(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	keys.put("large", pattern(3<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	db.onRequest(func(w http.ResponseWriter, r *http.Request, key string) bool {
		lie, _ := keys.get(key)
		lie.body = bytes.Clone(lie.body)
		lie.body[2<<20]++
		serveFake(w, r, lie)
		return true
	})
	r := v.Open(t.Context())
	defer r.Close()
	got, err := io.ReadAll(r)
	if !errors.Is(err, errDigest) || len(got) >= 3<<20 {
		t.Errorf("read %d bytes of wrong ones, %v", len(got), err)
	}
}

// Once a value was read whole and its digest was right, what is read of it again is
// compared with that, MiB by MiB, and a range's too; nothing is hashed again.
func TestStreamedValue_IsComparedWithWhatWasRight(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.CacheBytes = 1 << 20 }, db)
	want := keys.put("large", pattern(3<<20+17))
	get := func() *kvstore.Value {
		v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	sums := func() *pieceSums { return n.held("large").sums }
	part := get().Open(t.Context())
	defer part.Close()
	if _, err := part.Seek(1, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, part); err != nil || sums().known.Load() != nil {
		t.Fatalf("pieces are known of a value that nobody has read whole: %v", err)
	}
	for range 2 {
		if got := readAll(t, get()); !bytes.Equal(got, want.body) {
			t.Fatal("the value is not whole")
		}
	}
	if known := sums().known.Load(); known == nil || len(*known) != 4 || cap(*known) != 4 {
		t.Fatalf("pieces of 3 MiB and 17 bytes: %v", known)
	}
	bounded(t, n.memory, n.cfg.CacheBytes)
	r := get().Open(t.Context()).(*streamReader)
	r.Close()
	if r.verify.whole != nil {
		t.Error("the digest is computed again")
	}
	checkRanges(t, get(), want.body)

	db.onRequest(func(w http.ResponseWriter, r *http.Request, key string) bool {
		lie, _ := keys.get(key)
		lie.body = bytes.Clone(lie.body)
		lie.body[1<<20+5]++
		serveFake(w, r, lie)
		return true
	})
	for from, right := range map[int64]int64{0: 2 << 20, 12_345: 2 << 20, 1 << 20: 2 << 20} { // before right it must end
		r := get().Open(t.Context())
		defer r.Close()
		if _, err := r.Seek(from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); !errors.Is(err, errDigest) || from+int64(len(got)) >= right {
			t.Errorf("from %d: read %d bytes, %v", from, len(got), err)
		}
	}
	end := get().Open(t.Context())
	defer end.Close()
	if _, err := end.Seek(2<<20, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(end); err != nil || !bytes.Equal(got, want.body[2<<20:]) {
		t.Errorf("what is right behind what is wrong: %v", err)
	}
}

func TestStreamedValue_ReaderEndsWithItsContext(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, nil, db)
	keys.put("large", pattern(5<<20))
	v, _, err := n.Get(t.Context(), "large", kvstore.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := v.Open(ctx)
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the context ended: %v", err)
	}
	r.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("read after Close is fine")
	}
}
