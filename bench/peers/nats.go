package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsConfig flushes every write before it is acknowledged, like the other systems.
const natsConfig = `server_name: %s
listen: %q
jetstream { store_dir: %q, sync_interval: always, max_mem: 256MB, max_file: 64GB }
cluster { name: bench, listen: %q, routes: [%s] }
`

func startNATS(ctx context.Context, at place) (*system, error) {
	path, err := program{pkg: "github.com/nats-io/nats-server/v2"}.build(ctx, at.bin, "nats-server")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2 * nodes)
	if err != nil {
		return nil, err
	}
	var routes, urls []string
	for i := range nodes {
		routes = append(routes, fmt.Sprintf("%q", "nats://"+addrs[nodes+i]))
		urls = append(urls, "nats://"+addrs[i])
	}
	s, n := &system{name: "nats"}, &natsKV{}
	s.close = n.close
	for i := range nodes {
		name := fmt.Sprintf("s%d", i+1)
		config := filepath.Join(at.dir, name+".conf")
		text := fmt.Sprintf(natsConfig, name, addrs[i], filepath.Join(at.dir, name), addrs[nodes+i], strings.Join(routes, ", "))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return s, err
		}
		if err := s.run(at.dir, name, path, "-c", config); err != nil {
			return s, err
		}
	}
	s.tasks = map[string]task{"put": {open: n.creates}, "get": {open: n.gets}, "get-absent": {open: n.absences}}
	for range at.clients {
		var kv jetstream.KeyValue
		if err := eventually(ctx, "NATS is ready", s.nodes, func(ctx context.Context) (err error) {
			kv, err = n.connect(ctx, urls)
			return err
		}); err != nil {
			return s, err
		}
		n.buckets = append(n.buckets, kv)
	}
	return s, nil
}

// natsKV is one bucket, with three replicas in files, over several connections.
type natsKV struct {
	conns   []*nats.Conn
	buckets []jetstream.KeyValue
}

func (n *natsKV) connect(ctx context.Context, urls []string) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := nats.Connect(strings.Join(urls, ","), nats.Timeout(5*time.Second))
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err == nil {
		var kv jetstream.KeyValue
		if kv, err = js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "bench", Replicas: nodes, Storage: jetstream.FileStorage}); err == nil {
			n.conns = append(n.conns, conn)
			return kv, nil
		}
	}
	conn.Close()
	return nil, err
}

func (n *natsKV) close() {
	for _, c := range n.conns {
		c.Close()
	}
}

func (n *natsKV) bucket(worker int) jetstream.KeyValue { return n.buckets[worker%len(n.buckets)] }

func (n *natsKV) creates(_ context.Context, s session, worker int) (operation, func(), error) {
	kv, key := n.bucket(worker), s.fresh(worker)
	return func(ctx context.Context) (int, error) {
		_, err := kv.Create(ctx, key(), s.value)
		return 1, err
	}, func() {}, nil
}

func (n *natsKV) gets(_ context.Context, s session, worker int) (operation, func(), error) {
	kv, key := n.bucket(worker), s.reads()
	return func(ctx context.Context) (int, error) {
		e, err := kv.Get(ctx, key())
		if err == nil && len(e.Value()) != len(s.value) {
			err = fmt.Errorf("a value of %d bytes", len(e.Value()))
		}
		return 1, err
	}, func() {}, nil
}

func (n *natsKV) absences(_ context.Context, s session, worker int) (operation, func(), error) {
	kv, key := n.bucket(worker), s.fresh(worker)
	return func(ctx context.Context) (int, error) {
		_, err := kv.Get(ctx, key())
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return 1, nil
		case err == nil:
			return 0, errSetAlready
		}
		return 0, err
	}, func() {}, nil
}
