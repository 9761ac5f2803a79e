package cachetier

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/kvstore"
)

// answering is a transport that gives every request the same answer, without a network:
// what a load costs beside is all that is measured.
type answering struct {
	header http.Header
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: a.header, ContentLength: int64(len(a.body)), Body: io.NopCloser(bytes.NewReader(a.body)), Request: r}, nil
}

// BenchmarkNode_Get is a read from memory, a cold one of a key that the node owns,
// and one that the owner answers from its memory.
func BenchmarkNode_Get(b *testing.B) {
	get := func(b *testing.B, n *testNode, v fakeValue, want string) {
		for b.Loop() {
			if _, source, err := n.Get(b.Context(), v.meta.Key, kvstore.Linearizable); err != nil || source != want {
				b.Fatal(source, err)
			}
		}
	}
	holdsNothing := func(cfg *NodeConfig) { cfg.CacheBytes = 1 }
	for _, size := range []int{128, 4 << 10, 64 << 10, 1 << 20} {
		keys := newFakeKeys()
		keys.put("another", nil)
		v := keys.put("key", make([]byte, size))
		answer := httptest.NewRecorder()
		fakeHeader(answer, v)
		transport := answering{answer.Header(), v.body}
		newNode := func(b *testing.B, change func(*NodeConfig)) *testNode {
			n := newTestNode(b, change, newFakeDB(b, keys))
			n.fetcher.http.Transport = transport
			return n
		}
		b.Run(fmt.Sprintf("hit/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			n := newNode(b, nil)
			mustGet(b, n, v)
			get(b, n, v, sourceHit)
		})
		b.Run(fmt.Sprintf("cold/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			get(b, newNode(b, holdsNothing), v, sourceLoad)
		})
		b.Run(fmt.Sprintf("peer/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			n, owner := newNode(b, holdsNothing), newNode(b, nil)
			connect(n, owner)
			v.meta.Key = keyOwnedBy(b, n, owner)
			mustGet(b, owner, v)
			get(b, n, v, sourcePeer)
		})
	}
}
