package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// nodes is how many nodes each system has, unless it runs alone.
const nodes = 3

func startOncekv(ctx context.Context, at place) (*system, error) {
	path, err := at.product(ctx)
	if err != nil {
		return nil, err
	}
	databases := nodes
	if at.alone {
		databases = 1
	}
	addrs, err := freeAddrs(2*databases + 1)
	if err != nil {
		return nil, err
	}
	serving, peers, cache := addrs[:databases], addrs[databases:2*databases], addrs[2*databases]
	var initial, urls []string
	for i := range databases {
		initial = append(initial, fmt.Sprintf("n%d=http://%s", i+1, peers[i]))
		urls = append(urls, "http://"+serving[i])
	}
	s := &system{name: "oncekv"}
	for i := range databases {
		name := fmt.Sprintf("n%d", i+1)
		args := []string{"serve", "--name", name, "--data-dir", filepath.Join(at.dir, name), "--listen", serving[i],
			"--peer-listen", peers[i], "--initial-cluster", strings.Join(initial, ",")}
		if err := s.run(at.dir, name, path, append(args, at.serve...)...); err != nil {
			return s, err
		}
	}
	asked := serving
	if !at.alone {
		if err := s.run(at.dir, "c1", path, "cache", "--name", "c1", "--listen", cache, "--nodes", strings.Join(urls, ",")); err != nil {
			return s, err
		}
		asked = append(slices.Clone(serving), cache)
	}
	for _, addr := range asked {
		if err := eventually(ctx, "oncekv is ready", s.nodes, func(ctx context.Context) error { return answers(ctx, "http://"+addr+"/readyz") }); err != nil {
			return s, err
		}
	}
	o := &oncekv{system: s, path: path, urls: urls, cache: cache, streams: at.streams}
	for range at.clients {
		c, err := client.New(client.Config{Endpoints: urls})
		if err != nil {
			return s, err
		}
		o.clients = append(o.clients, c)
	}
	s.tasks, s.url, s.oncekv = o.tasks(), urls[0], o
	return s, nil
}

// product returns the program that is measured.
func (at place) product(ctx context.Context) (string, error) {
	if at.oncekv != "" {
		return filepath.Abs(at.oncekv)
	}
	dir, err := productDir(ctx)
	if err != nil {
		return "", err
	}
	return program{pkg: "./cmd/oncekv", dir: dir}.build(ctx, at.bin, "oncekv")
}

// oncekv is a running system of oncekv, with what its cases need.
type oncekv struct {
	system  *system
	path    string   // path of the program
	urls    []string // of database nodes, in the order of system.nodes
	cache   string   // address of the cache node
	streams int      // streams of postKeys
	clients []*client.Client
}

// version returns the version that the program reports.
func (o *oncekv) version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, o.path, "version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", o.path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (o *oncekv) tasks() map[string]task {
	leader, follower := o.at(true), o.at(false)
	return map[string]task{
		"put":        {open: o.puts},
		"get":        {open: o.gets},
		"get-absent": {open: o.absences},
		"put-all":    {bulk: o.putAll, workers: 1},
		"http-keys":  {bulk: o.postKeys, workers: o.streams},

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
			m, err := o.member(ctx, leads)
			if err != nil {
				return nil, nil, err
			}
			return of(strings.TrimPrefix(m.ClientURL, "http://"))(ctx, s, worker)
		}
	}
}

// member returns the leader, or a follower.
func (o *oncekv) member(ctx context.Context, leads bool) (api.Member, error) {
	all, err := o.clients[0].Members(ctx)
	if err != nil {
		return api.Member{}, err
	}
	for _, m := range all.Members {
		if (m.Name == all.Leader) == leads {
			return m, nil
		}
	}
	return api.Member{}, errors.New("oncekv has no leader")
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
	c, key := o.client(worker), s.reads()
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
		case errors.Is(err, api.ErrNotFound):
			return 1, nil
		case err == nil:
			return 0, errors.Join(errSetAlready, v.Body.Close())
		}
		return 0, err
	}, func() {}, nil
}

// putAll puts keys in one stream of the Go client.
func (o *oncekv) putAll(ctx context.Context, s session, keys int, acknowledged func(n int)) error {
	items := func(yield func(client.PutItem) bool) {
		for n := range uint32(keys) {
			if !yield(client.PutItem{Key: s.key(0, n), Value: s.value}) {
				return
			}
		}
	}
	for r, err := range o.clients[0].PutAll(ctx, items) {
		if err == nil && r.Err == nil && r.Status != api.BatchCreated {
			err = errSetAlready
		}
		if err := errors.Join(err, r.Err); err != nil {
			return err
		}
		acknowledged(1)
	}
	return nil
}

// postKeys puts keys in one or more streams to the leader.
func (o *oncekv) postKeys(ctx context.Context, s session, keys int, acknowledged func(n int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var streams sync.WaitGroup
	for i := range o.streams {
		from, to := keys*i/o.streams, keys*(i+1)/o.streams
		streams.Go(func() {
			if err := o.putStream(ctx, s, uint32(from), uint32(to), acknowledged); err != nil {
				cancel(err)
			}
		})
	}
	streams.Wait()
	return context.Cause(ctx)
}

// breaksMax is how often a stream may break off, or a transaction fail: if the machine stands
// still, there may be an election.
const breaksMax = 20

// putStream puts a range of keys. If the leader is lost, it continues at the next one.
func (o *oncekv) putStream(ctx context.Context, s session, from, to uint32, acknowledged func(n int)) error {
	for breaks := 0; ; breaks++ {
		var c *rawConn
		err := eventually(ctx, "oncekv has a leader", o.system.nodes, func(ctx context.Context) error {
			m, err := o.member(ctx, true)
			if err == nil {
				c, err = dialRaw(strings.TrimPrefix(m.ClientURL, "http://"))
			}
			return err
		})
		if err != nil {
			return err
		}
		set, err := c.postKeys(ctx, stream{session: s, from: from, to: to, again: breaks > 0, acknowledged: acknowledged, atOnce: acknowledgedAtOnce})
		c.close()
		if err == nil || ctx.Err() != nil || breaks == breaksMax {
			return err
		}
		if from += set; from == to {
			return nil // only the end of the answer is missing
		}
		say("the stream has broken off and goes on: %v\n", err)
	}
}
