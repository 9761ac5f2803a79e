package httpapi

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/kvstore"
)

// roomWait is how long a request waits for memory or a place before it is refused.
// Those that give way do so within that time.
const roomWait = time.Second

// placeLinger is how long a stream that gives way has to say so; less than roomWait.
const placeLinger = roomWait / 5

// graceShare is the part of the idle time for which a client may be slow although
// others wait for what it holds.
const graceShare = 6

// Shares of JSONBytesInFlight, in sixteenths. No client can take what is set aside
// for others: what is small goes on when what is large takes long, what is read
// when what is sent does, and the cluster's own traffic always.
const (
	shareLarge   = 8 // bodies over smallBodyBytes
	shareSmall   = 2 // other bodies
	shareAnswers = 6 // lists, and values as JSON
	shareChanges = 4 // streams of changes: on top
	shareCluster = 1 // heartbeats, changes of the cluster, lists of nodes: on top, each
	shareAll     = 16
)

const (
	freeBodyBytes  = 4 << 10  // a body up to this is part of what a connection costs
	smallBodyBytes = 64 << 10 // a body up to this is small
)

// detailPlaceNeeded is why a stream is ended for another one's sake.
const detailPlaceNeeded = "others need its place, and it was idle or its client was too slow; send the rest in a new stream"

// rooms is the memory of documents that are held whole.
type rooms struct {
	large, small, answers, changes, cluster, beats, lists *budget.Budget
}

func newRooms(jsonBytes int64) *rooms {
	share := func(n int64) *budget.Budget { return budget.New(jsonBytes * n / shareAll) }
	return &rooms{large: share(shareLarge), small: share(shareSmall), answers: share(shareAnswers), changes: share(shareChanges),
		cluster: share(shareCluster), beats: share(shareCluster), lists: share(shareCluster)}
}

// room takes n of b for h, and waits for a moment if it must.
func room(ctx context.Context, h *budget.Holder, n int64) error {
	if err := h.Acquire(ctx, n, roomWait); err != nil {
		return kvstore.ErrOverloaded
	}
	return nil
}

// graceOf is how long a client may be slow although others wait.
func graceOf(idle time.Duration) time.Duration { return idle / graceShare }

// hostOf is the address a request came from, without its port.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// untilClosed returns a context that also ends when closing is closed. end ends
// it, and returns when nothing of it is left.
func untilClosed(parent context.Context, closing <-chan struct{}) (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancel(parent)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watching.Wait()
	}
}
