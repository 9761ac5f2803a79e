package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/client"
)

// nodes is how many nodes each system has.
const nodes = 3

// streams of many puts at the same time; a node takes 16.
const streams = 8

func startOncekv(ctx context.Context, at place) (*system, error) {
	dir, err := productDir(ctx)
	if err != nil {
		return nil, err
	}
	path, err := program{pkg: "./cmd/oncekv", dir: dir}.build(ctx, at.bin, "oncekv")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2*nodes + 1)
	if err != nil {
		return nil, err
	}
	serving, peers, cache := addrs[:nodes], addrs[nodes:2*nodes], addrs[2*nodes]
	var initial, urls []string
	for i := range nodes {
		initial = append(initial, fmt.Sprintf("n%d=http://%s", i+1, peers[i]))
		urls = append(urls, "http://"+serving[i])
	}
	s := &system{name: "oncekv"}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		if err := s.run(at.dir, name, path, "serve", "--name", name, "--data-dir", filepath.Join(at.dir, name), "--listen", serving[i],
			"--peer-listen", peers[i], "--initial-cluster", strings.Join(initial, ",")); err != nil {
			return s, err
		}
	}
	if err := s.run(at.dir, "c1", path, "cache", "--name", "c1", "--listen", cache, "--nodes", strings.Join(urls, ",")); err != nil {
		return s, err
	}
	for _, addr := range append(slices.Clone(serving), cache) {
		if err := eventually(ctx, "oncekv is ready", s.nodes, func(ctx context.Context) error { return answers(ctx, "http://"+addr+"/readyz") }); err != nil {
			return s, err
		}
	}
	o := &oncekv{urls: urls, cache: cache}
	for range at.clients {
		c, err := client.New(client.Config{Endpoints: urls})
		if err != nil {
			return s, err
		}
		o.clients = append(o.clients, c)
	}
	s.tasks, s.url = o.tasks(), urls[0]
	return s, nil
}

// oncekv is what its cases are made of.
type oncekv struct {
	urls    []string // of database nodes
	cache   string   // address of the cache node
	clients []*client.Client
}

func (o *oncekv) tasks() map[string]task {
	leader, follower := o.at(true), o.at(false)
	return map[string]task{
		"put":        {open: o.puts},
		"get":        {open: o.gets},
		"get-absent": {open: o.absences},
		"batch":      {open: o.batches, workers: streams},

		"http-put-leader":      {open: leader(rawPuts)},
		"http-put-follower":    {open: follower(rawPuts)},
		"http-put-cache":       {open: rawPuts(o.cache)},
		"http-get-leader":      {open: leader(found)},
		"http-get-follower":    {open: follower(found)},
		"http-get-cache":       {open: found(o.cache)},
		"http-absent-leader":   {open: leader(absent)},
		"http-absent-follower": {open: follower(absent)},
	}
}

func found(addr string) opener  { return rawGets(addr, http.StatusOK) }
func absent(addr string) opener { return rawGets(addr, http.StatusNotFound) }

// at finds the leader, or a follower, when a worker begins.
func (o *oncekv) at(leads bool) func(func(addr string) opener) opener {
	return func(of func(addr string) opener) opener {
		return func(ctx context.Context, s session, worker int) (operation, func(), error) {
			m, err := o.clients[0].Members(ctx)
			if err != nil {
				return nil, nil, err
			}
			for _, member := range m.Members {
				if (member.Name == m.Leader) == leads {
					return of(strings.TrimPrefix(member.ClientURL, "http://"))(ctx, s, worker)
				}
			}
			return nil, nil, errors.New("oncekv has no leader")
		}
	}
}

func (o *oncekv) client(worker int) *client.Client { return o.clients[worker%len(o.clients)] }

func (o *oncekv) puts(_ context.Context, s session, worker int) (operation, func(), error) {
	c, key := o.client(worker), s.fresh(worker)
	return func(ctx context.Context) (int, error) {
		a, err := c.PutBytes(ctx, key(), s.value, client.PutOptions{})
		if err == nil && !a.Created {
			err = errSetAlready
		}
		return 1, err
	}, func() {}, nil
}

func (o *oncekv) gets(_ context.Context, s session, worker int) (operation, func(), error) {
	c, key := o.client(worker), s.known()
	return func(ctx context.Context) (int, error) {
		v, err := c.Get(ctx, key(), client.GetOptions{})
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(io.Discard, v.Body)
		if err == nil && n != int64(len(s.value)) {
			err = fmt.Errorf("a value of %d bytes", n)
		}
		return 1, errors.Join(err, v.Body.Close())
	}, func() {}, nil
}

func (o *oncekv) absences(_ context.Context, s session, worker int) (operation, func(), error) {
	c, key := o.client(worker), s.fresh(worker)
	return func(ctx context.Context) (int, error) {
		v, err := c.Get(ctx, key(), client.GetOptions{})
		switch {
		case errors.Is(err, client.ErrNotFound):
			return 1, nil
		case err == nil:
			return 0, errors.Join(errSetAlready, v.Body.Close())
		}
		return 0, err
	}, func() {}, nil
}

// batches has one stream for each worker, that ends with the load; an operation
// is its next result. What a key waits for in the stream is not part of that.
func (o *oncekv) batches(ctx context.Context, s session, worker int) (operation, func(), error) {
	key := s.fresh(worker)
	items := func(yield func(client.PutItem) bool) {
		for yield(client.PutItem{Key: key(), Value: s.value}) {
		}
	}
	next, stop := iter.Pull2(o.client(worker).PutAll(ctx, items))
	return func(context.Context) (int, error) {
		r, err, more := next()
		if !more {
			return 0, errors.New("the stream has ended")
		}
		return 1, errors.Join(err, r.Err)
	}, stop, nil
}
