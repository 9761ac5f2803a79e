package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/checker"
)

// history is what all clients of an episode saw.
type history struct {
	began time.Time

	mu      sync.Mutex
	ops     []checker.Op
	odd     []string                 // answers that no node may give
	created map[string]time.Duration // by node: Call of the latest put that it acknowledged as created
	counts  map[string]int           // by kind of answer
}

func newHistory() *history {
	return &history{began: time.Now(), created: map[string]time.Duration{}, counts: map[string]int{}}
}

// now reads the clock of Op.Call and Op.Return.
func (h *history) now() time.Duration { return time.Since(h.began) }

// add records an answer from node.
func (h *history) add(node string, o checker.Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	h.counts[o.Outcome.String()]++
	if o.Outcome == checker.Created {
		h.created[node] = max(h.created[node], time.Duration(o.Call))
	}
}

// refused counts a request without effect and without a claim.
func (h *history) refused(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[why]++
}

// strange records an answer that is wrong by itself.
func (h *history) strange(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.odd) < 20 {
		h.odd = append(h.odd, fmt.Sprintf("at %v: ", h.now().Round(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// acknowledged counts the puts that were answered created.
func (h *history) acknowledged() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[checker.Created.String()]
}

// createdSince reports whether node has acknowledged a put that began after at.
func (h *history) createdSince(node string, at time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.created[node] >= at
}

// keys returns all keys that were requested, with the values of those seen set.
func (h *history) keys() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := map[string]string{}
	for i := range h.ops {
		o := &h.ops[i]
		switch o.Outcome {
		case checker.Created, checker.Unchanged:
			keys[o.Key] = o.Value
		case checker.Conflict, checker.Found:
			keys[o.Key] = o.Seen
		default:
			if _, known := keys[o.Key]; !known {
				keys[o.Key] = ""
			}
		}
	}
	return keys
}

// save writes the history as JSON, one Op a line.
func (h *history) save(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	to := json.NewEncoder(f)
	for i := range h.ops {
		if err := to.Encode(&h.ops[i]); err != nil {
			return err
		}
	}
	return f.Close()
}
