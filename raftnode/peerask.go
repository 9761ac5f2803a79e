package raftnode

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// Paths of the peer listener beside rafthttp's.
const (
	snapshotPath  = "/oncekv/snapshot"
	membersPath   = "/oncekv/members"
	bodiesPath    = "/oncekv/bodies"
	historyPath   = "/oncekv/history"
	clusterHeader = "Oncekv-Cluster"
)

// changeRequest is a membership change on its way to the leader.
type changeRequest struct {
	Op     string `json:"op"` // add, remove, promote, transfer
	Name   string `json:"name,omitempty"`
	Force  bool   `json:"force,omitempty"`
	Member Member `json:"member,omitzero"`
}

type changeAnswer struct {
	Member  Member `json:"member,omitzero"`
	Created bool   `json:"created,omitempty"`
	Kind    string `json:"kind,omitempty"` // of the error
	Error   string `json:"error,omitempty"`
}

// errorKinds are the errors that survive the way between nodes.
var errorKinds = map[string]error{
	"refused": ErrRefused, "unknown-member": ErrUnknownMember, "bad-member": ErrBadMember,
	"unavailable": ErrUnavailable, "unknown-outcome": ErrOutcomeUnknown, "stopped": ErrStopped,
}

func (a *changeAnswer) setError(err error) {
	a.Error = err.Error()
	for kind, e := range errorKinds {
		if errors.Is(err, e) {
			a.Kind = kind
		}
	}
}

// remoteError keeps the sentence and the kind of an error of another node.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() error { return e.kind }

func (a changeAnswer) err() error {
	switch {
	case a.Error == "":
		return nil
	case a.Kind == "refused":
		return &RefusedError{Reason: a.Error}
	}
	return &remoteError{a.Error, cmp.Or(errorKinds[a.Kind], ErrOutcomeUnknown)}
}

// ask sends a request to another member of a cluster.
func ask(ctx context.Context, client *http.Client, cluster ID, method, url string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set(clusterHeader, cluster.String())
	return client.Do(req)
}

// answeredBy reports whether an answer is that of a member of a cluster.
func answeredBy(resp *http.Response, cluster ID) bool {
	return resp.Header.Get(clusterHeader) == cluster.String()
}

const changeAnswerBytesMax = 1 << 20

// askLeader sends a change to the leader's peer listener.
func (n *Node) askLeader(ctx context.Context, url string, req changeRequest) (changeAnswer, error) {
	var a changeAnswer
	body, err := json.Marshal(req)
	if err != nil {
		return a, fmt.Errorf("encode the change: %w", err)
	}
	cluster := n.identity.Load().ClusterID
	// By a connection of its own: on one that was left idle, and is closed over there
	// by now, nobody could tell whether the change was carried out.
	resp, err := ask(ctx, n.changeClient, cluster, http.MethodPost, url+membersPath, bytes.NewReader(body))
	if dial := new(net.OpError); errors.As(err, &dial) && dial.Op == "dial" {
		// Nobody there has seen the request: wait for the next leader.
		return a, fmt.Errorf("%w: the leader at %s does not answer: %s", ErrUnavailable, url, nodehttp.Reason(err))
	}
	if err != nil {
		return a, fmt.Errorf("%w: ask the leader at %s: %s", ErrOutcomeUnknown, url, nodehttp.Reason(err))
	}
	defer resp.Body.Close()
	// The caller may be anybody, and so may be what answers: none of its words go
	// back unless it is of this cluster.
	if resp.StatusCode != http.StatusOK || !answeredBy(resp, cluster) {
		return a, fmt.Errorf("%w: what answers at %s, where the leader should be, is not a member of this cluster (HTTP status %d)", ErrUnavailable, url, resp.StatusCode)
	}
	if err := nodehttp.DecodeJSON(resp.Body, changeAnswerBytesMax, &a); err != nil {
		return a, fmt.Errorf("%w: read the leader's answer: %w", ErrOutcomeUnknown, err)
	}
	return a, a.err()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other side sees a broken body
}

// pullIdle bounds how long a body may give nothing.
const pullIdle = 10 * time.Second

// fetchIdle asks another member for what may take long. The deadline is by progress.
func fetchIdle(ctx context.Context, client *http.Client, cluster ID, url string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	idle := time.AfterFunc(pullIdle, cancel)
	resp, err := ask(ctx, client, cluster, http.MethodGet, url, nil)
	if err != nil {
		idle.Stop()
		cancel()
		return nil, err
	}
	body := &idleBody{body: resp.Body, idle: idle, cancel: cancel}
	if resp.StatusCode != http.StatusOK {
		defer body.Close()
		text, _ := io.ReadAll(io.LimitReader(body, 1024))
		return nil, fmt.Errorf("%s answered %s: %s", url, resp.Status, text)
	}
	return body, nil
}

// idleBody cancels its request when nothing arrives for pullIdle.
type idleBody struct {
	body   io.ReadCloser
	idle   *time.Timer
	cancel context.CancelFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.idle.Reset(pullIdle)
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.idle.Stop()
	b.cancel()
	return b.body.Close()
}
