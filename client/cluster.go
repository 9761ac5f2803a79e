package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// Members returns the cluster's members, confirmed by a quorum; without one,
// what the answering node knows, with Stale set.
func (c *Client) Members(ctx context.Context) (Members, error) {
	var m Members
	read := func(resp *http.Response) error {
		m = Members{}
		if err := readJSON(resp, &m); err != nil {
			return err
		}
		m.History = resp.Header.Get(api.HeaderHistory)
		return nil
	}
	resp, err := c.do(ctx, &call{op: "list members", method: http.MethodGet, target: "/members", answer: read})
	if err != nil {
		return Members{}, err
	}
	return m, resp.Body.Close()
}

// AddMember adds a database node. created is false when it was a member
// already, under the same id. ErrRefused says why the cluster does not want it
// now, or that the name belongs to another id.
func (c *Client) AddMember(ctx context.Context, m AddMember) (member Member, created bool, err error) {
	status, err := c.change(ctx, fmt.Sprintf("add member %q", m.Name), http.MethodPost, "/members", m, &member)
	return member, status == http.StatusCreated, err
}

// RemoveMember removes a database node for ever: its id never comes back.
// ErrRefused when the rest would have no quorum, unless force is set. A member
// that is gone after a try without an answer counts as removed.
func (c *Client) RemoveMember(ctx context.Context, name string, force bool) error {
	target := memberTarget(name)
	if force {
		target += "?force=true"
	}
	removal := &call{op: fmt.Sprintf("remove member %q", name), method: http.MethodDelete, target: target, mutates: true}
	resp, err := c.do(ctx, removal)
	switch {
	case err == nil:
		return resp.Body.Close()
	case removal.unsure && errors.Is(err, ErrNotFound):
		return nil
	}
	return err
}

// PromoteMember makes a learner a voter. ErrRefused while it is behind.
func (c *Client) PromoteMember(ctx context.Context, name string) error {
	_, err := c.change(ctx, fmt.Sprintf("promote member %q", name), http.MethodPost, memberTarget(name)+"/promote", nil, nil)
	return err
}

// TransferLeader makes the named voter the leader.
func (c *Client) TransferLeader(ctx context.Context, to string) error {
	_, err := c.change(ctx, fmt.Sprintf("transfer leadership to %q", to), http.MethodPost, "/leader", api.TransferLeader{To: to}, nil)
	return err
}

// Caches returns the cache nodes that the answering database node knows.
func (c *Client) Caches(ctx context.Context) ([]CacheNode, error) {
	var nodes []CacheNode
	err := c.fetch(ctx, "list caches", "/caches", &nodes)
	return nodes, err
}

// DBs returns the database nodes.
func (c *Client) DBs(ctx context.Context) ([]DBNode, error) {
	var nodes []DBNode
	err := c.fetch(ctx, "list database nodes", "/dbs", &nodes)
	return nodes, err
}

// Stats returns the figures of whichever database node answers. For those of
// one node make a client with that endpoint alone.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := c.fetch(ctx, "get stats", "/stats", &s)
	return s, err
}

// CacheStats is Stats for a client whose endpoint is a cache node.
func (c *Client) CacheStats(ctx context.Context) (CacheStats, error) {
	var s CacheStats
	err := c.fetch(ctx, "get stats", "/stats", &s)
	return s, err
}

// Ping returns nil when some endpoint answers.
func (c *Client) Ping(ctx context.Context) error {
	pong := func(resp *http.Response) error {
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64))
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(body), "pong") {
			return unexpected(resp, "something else than pong")
		}
		return nil
	}
	resp, err := c.do(ctx, &call{op: "ping", method: http.MethodGet, target: "/ping", answer: pong})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) fetch(ctx context.Context, op, target string, into any) error {
	_, err := c.doJSON(ctx, &call{op: op, method: http.MethodGet, target: target}, into)
	return err
}

// change makes one change to the cluster. A change is repeated like anything
// else: each of them is the same change when it arrives twice.
func (c *Client) change(ctx context.Context, op, method, target string, body, into any) (int, error) {
	req := &call{op: op, method: method, target: target, header: http.Header{}, mutates: true}
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", op, err)
		}
		req.header.Set("Content-Type", "application/json")
		if req.body, err = newReplayBody(bytes.NewReader(data)); err != nil {
			return 0, fmt.Errorf("%s: %w", op, err)
		}
	}
	if into != nil {
		return c.doJSON(ctx, req, into)
	}
	resp, err := c.do(ctx, req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// memberTarget escapes a name as one path segment.
func memberTarget(name string) string {
	return "/members/" + url.PathEscape(name)
}
