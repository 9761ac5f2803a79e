package hostile

import (
	"context"
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// figures are the resources that a node uses.
type figures struct {
	goroutines  int
	descriptors int
	heap        int64 // bytes in use, garbage included
	anonymous   int64 // bytes of memory
}

func (f figures) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d MiB of heap", f.goroutines, f.descriptors, f.heap>>20)
}

type allFigures map[*clustertest.Process]figures

// How much more a node may use afterwards: connections that nodes keep to each other for a
// while after a burst of forwarded requests, and a heap that varies by itself. Attacks have
// hundreds of connections.
const (
	goroutinesMore  = 150
	descriptorsMore = 100
	heapMore        = 96 << 20
	// memoryMore bounds the memory that an attack may take of a node at any time: its budgets
	// for bodies, values and lists, and as much garbage again.
	memoryMore = 768 << 20
	// settleTime bounds the return to normal: an idle connection is kept for at most a minute
	// and a half.
	settleTime = 2 * time.Minute
)

func figuresOf(n *clustertest.Process) (figures, error) {
	metrics, err := n.Metrics()
	if err != nil {
		return figures{}, err
	}
	memory, err := n.Memory()
	if err != nil {
		return figures{}, err
	}
	open, err := n.Descriptors()
	return figures{goroutines: int(metrics["go_goroutines"]), descriptors: open, heap: int64(metrics["go_memstats_heap_inuse_bytes"]), anonymous: memory.Anonymous}, err
}

// figures returns the current figures of all nodes.
func (w *world) figures() allFigures {
	w.t.Helper()
	all := allFigures{}
	for _, n := range w.all() {
		f, err := figuresOf(n)
		if err != nil {
			w.t.Fatalf("the figures of %s: %v", n.Name, err)
		}
		all[n] = f
	}
	return all
}

// memoryMax returns how much memory each node may have during the attack.
func (f allFigures) memoryMax() map[*clustertest.Process]int64 {
	limits := map[*clustertest.Process]int64{}
	for n, was := range f {
		limits[n] = was.anonymous + memoryMore
	}
	return limits
}

// judgeFigures waits until every node uses as little as before.
func (w *world) judgeFigures(before allFigures) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	for _, n := range w.all() {
		if !n.Running() {
			continue
		}
		was := before[n]
		var now figures
		err := poll(ctx, func() error {
			if !n.Running() {
				return nil // judgeLogs tells why
			}
			f, err := figuresOf(n)
			if err != nil {
				return err
			}
			now = f
			if f.heap > was.heap+heapMore {
				w.collect(ctx, n)
			}
			if f.goroutines > was.goroutines+goroutinesMore || f.descriptors > was.descriptors+descriptorsMore || f.heap > was.heap+heapMore {
				return fmt.Errorf("it has %v", f)
			}
			return nil
		})
		if err != nil {
			w.t.Errorf("%s does not come back to what it occupied before the attack, %v, within %v: %v", n.Name, was, settleTime, err)
			continue
		}
		w.t.Logf("%s: %v before the attack, %v after it", n.Name, was, now)
	}
}

// collect makes a node collect its garbage soon, by making it produce more.
func (w *world) collect(ctx context.Context, n *clustertest.Process) {
	path := "/keys?limit=10000"
	if n == w.admin {
		path = "/api" + path
	}
	for range 20 {
		_, _, _ = fetch(ctx, n.URL()+path)
	}
}
