package cachetier

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	demotion       = time.Second // how long a failed database node is tried last
	hedgeMin       = 20 * time.Millisecond
	hedgeMax       = 250 * time.Millisecond
	hedgeUnknown   = 100 * time.Millisecond // while nothing was measured
	latencyWeight  = 0.25                   // of a new measurement in the moving average
	answeredWithin = 3 * time.Second        // an older answer does not make a node ready
)

// database is one database node as this cache node sees it.
type database struct {
	url     string
	beating atomic.Bool // a heartbeat is on its way

	// stranger is set while it tells another history than that of the cache node, which
	// the log says once. Guarded by Node.update.
	stranger bool

	// proven is set for a seed, and for another node once it has answered a heartbeat as
	// the member that it was said to be. Others get heartbeats and nothing else: anybody may
	// have named that URL, and nobody may read through this node what is there.
	proven atomic.Bool

	mu       sync.Mutex
	silence  string            // why the last heartbeat was in vain; "" if it was not
	latency  time.Duration     // moving average until the first byte of an answer; 0: not measured
	demoted  time.Time         // tried last until then
	answered time.Time         // last answer of any kind
	history  kvstore.HistoryID // what it told last; zero: none

	reads latencies // until the first byte of the answer to a read
}

// succeeded records an answer.
func (d *database) succeeded(now time.Time, took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered, d.demoted = now, time.Time{}
	d.measure(took)
}

// read records the answer to a read.
func (d *database) read(now time.Time, took time.Duration) {
	d.succeeded(now, took)
	d.reads.observe(took)
}

// failed records an error or a refusal.
func (d *database) failed(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.demoted = now.Add(demotion)
}

// outrun records that another node answered first, after so long: this one is at least that
// slow.
func (d *database) outrun(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if took > d.latency {
		d.measure(took)
	}
}

// tells notes which history the node has.
func (d *database) tells(history kvstore.HistoryID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.history = history
}

// told returns which history the node has, as far as it has told.
func (d *database) told() kvstore.HistoryID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.history
}

// complains notes why a heartbeat was in vain, "" for one that was not, and reports whether
// that is new.
func (d *database) complains(why string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.silence
	d.silence = why
	return before != why
}

// tried is the URL, and why it does not answer.
func (d *database) tried() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.silence == "" {
		return d.url
	}
	return d.url + " (" + d.silence + ")"
}

func (d *database) measure(took time.Duration) {
	if d.latency == 0 {
		d.latency = took
		return
	}
	d.latency += time.Duration(latencyWeight * float64(took-d.latency))
}

func (d *database) answeredSince(t time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.answered.After(t)
}

// databases is the set of known database nodes. The list is replaced, never changed, so that
// loads read it without a lock.
type databases struct {
	list   atomic.Pointer[[]*database]
	leader atomic.Pointer[string] // URL, as the last heartbeat told it; nil: none did
	now    func() time.Time
}

func (ds *databases) all() []*database { return *ds.list.Load() }

// begin makes the first list, which is proven.
func (ds *databases) begin(seeds []string) {
	ds.set(seeds)
	for _, d := range ds.all() {
		d.proven.Store(true)
	}
}

// set replaces the list. A node that stays keeps what was measured. Only one goroutine at a
// time may call it.
func (ds *databases) set(urls []string) {
	known := map[string]*database{}
	if old := ds.list.Load(); old != nil {
		for _, d := range *old {
			known[d.url] = d
		}
	}
	list := make([]*database, 0, len(urls))
	for _, url := range urls {
		d := known[url]
		if d == nil {
			d = &database{url: url}
		}
		list = append(list, d)
	}
	ds.list.Store(&list)
}

// preference lists the nodes that are proven and have a history, fastest first. Those that
// are not measured yet follow; those that failed lately come last.
func (ds *databases) preference(history kvstore.HistoryID) []*database {
	type rank struct {
		d       *database
		latency time.Duration
	}
	now, list := ds.now(), ds.all()
	ranks := make([]rank, 0, len(list))
	for _, d := range list {
		d.mu.Lock()
		told, latency, demoted := d.history, cmp.Or(d.latency, hedgeMax), now.Before(d.demoted)
		d.mu.Unlock()
		if !d.proven.Load() || told != history {
			continue
		}
		if demoted {
			latency += time.Hour // more than any that is measured
		}
		ranks = append(ranks, rank{d, latency})
	}
	slices.SortStableFunc(ranks, func(a, b rank) int { return cmp.Compare(a.latency, b.latency) })
	order := make([]*database, len(ranks))
	for i, r := range ranks {
		order[i] = r.d
	}
	return order
}

// why says why no node of a history can be asked.
func (ds *databases) why(history kvstore.HistoryID) string {
	var said []string
	for _, d := range ds.all() {
		if told := d.told(); d.proven.Load() && told != history {
			said = append(said, fmt.Sprintf("%s has history %s", d.url, nameOf(told)))
		}
	}
	if said == nil {
		return "no database node is known"
	}
	return fmt.Sprintf("no database node with history %s is known: %s; this cache node moves to another history only if that one continues its own, or if no node with its own has answered for %v while others did, and it never moves back: restart it to let it start afresh", nameOf(history), strings.Join(said, "; "), historyPatience)
}

// leading returns the URL of the node that leads, "" if none is known to.
func (ds *databases) leading() string {
	if url := ds.leader.Load(); url != nil {
		return *url
	}
	return ""
}

// leads takes in who leads, if the answer to a heartbeat says it.
func (ds *databases) leads(told []api.DBNode) {
	for _, d := range told {
		if d.Role != api.RoleLeader {
			continue
		}
		if url, err := nodeurl.Parse(d.URL); err == nil && url != ds.leading() {
			ds.leader.Store(&url)
		}
	}
}

// failed records that the node of that URL failed.
func (ds *databases) failed(url string) {
	for _, d := range ds.all() {
		if d.url == url {
			d.failed(ds.now())
		}
	}
}

// hedgeDelay is how long d may be silent before another node is asked too: what all but one
// in twenty of the last reads took. So hedging costs at most a twentieth more reads, also
// when all nodes have become slow.
func (d *database) hedgeDelay() time.Duration {
	return min(max(cmp.Or(d.reads.usual(), hedgeUnknown), hedgeMin), hedgeMax)
}
