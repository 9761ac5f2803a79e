package httpapi

import (
	"net/http"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

// listFresh is how long an encoded list of cache nodes is answered again, unless a
// heartbeat comes: many who ask at once share its bytes.
const listFresh = 100 * time.Millisecond

// nodes answers /caches and /dbs.
type nodes struct {
	cluster  Cluster
	registry Registry
	history  func() kvstore.History
	idle     time.Duration
	memory   *budget.Budget // of lists on their way
	beats    *jsonBodies

	mu   sync.Mutex
	list []byte // GET /caches as JSON; nil: to be made
	made time.Time
}

func (n *nodes) caches(w http.ResponseWriter, r *http.Request) error {
	body, err := n.encoded()
	if err != nil {
		return err
	}
	return n.write(w, r, n.memory, body)
}

// encoded returns the list of cache nodes.
func (n *nodes) encoded() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.list != nil && time.Since(n.made) < listFresh {
		return n.list, nil
	}
	body, err := marshal(present(n.registry.Caches()))
	n.list, n.made = body, time.Now()
	return body, err
}

// write answers with JSON, at the client's pace; what the client does not take at
// once counts as memory.
func (n *nodes) write(w http.ResponseWriter, r *http.Request, memory *budget.Budget, body []byte) error {
	paced := newPacedWriter(w, n.idle)
	if len(body) > pieceBytes/2 { // what fits the socket's buffer is not waited for
		release, err := paced.hold(r, memory, int64(len(body)))
		defer release()
		if err != nil {
			return err
		}
	}
	return writeBody(paced, http.StatusOK, contentTypeJSON, body)
}

func (n *nodes) heartbeat(w http.ResponseWriter, r *http.Request) error {
	var beat api.Heartbeat
	release, err := n.beats.decode(w, r, &beat)
	defer release()
	if err != nil {
		return err
	}
	if beat.URL == "" {
		return invalid(`the JSON body has no "url"; it is where the cache node is reached, and its identity`)
	}
	if beat.URL, err = nodeurl.Parse(beat.URL); err != nil {
		return invalid(`"url" in the JSON body: %v`, err)
	}
	if err := nodeurl.CheckName(beat.Name); err != nil {
		return invalid(`"name" in the JSON body: %v`, err)
	}
	answer := n.registry.Heartbeat(hostOf(r), beat)
	n.mu.Lock()
	n.list = nil
	n.mu.Unlock()
	answer.Caches, answer.DBs = present(answer.Caches), present(answer.DBs)
	answer.History = HistoryDocument(n.history())
	body, err := marshal(&answer)
	if err != nil {
		return err
	}
	return n.write(w, r, n.beats.small, body)
}

func (n *nodes) dbs(w http.ResponseWriter, r *http.Request) error {
	body, err := marshal(present(n.cluster.DBs(r.Context())))
	if err != nil {
		return err
	}
	return n.write(w, r, n.memory, body)
}
