package httpapi

import (
	"net/http"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// nodes answers /caches and /dbs.
type nodes struct {
	cluster  Cluster
	registry Registry
	beats    *jsonBodies
}

func (n *nodes) caches(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, present(n.registry.Caches()))
}

func (n *nodes) heartbeat(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	var beat client.Heartbeat
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
	answer := n.registry.Heartbeat(beat)
	answer.Caches, answer.DBs = present(answer.Caches), present(answer.DBs)
	return writeJSON(w, http.StatusOK, &answer)
}

func (n *nodes) dbs(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, present(n.cluster.DBs(r.Context())))
}
