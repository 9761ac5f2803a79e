package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// A transaction of etcd takes at most 128 operations.
const (
	txnPuts    = 64
	txnWorkers = 256 // more and fewer took more time of processors for a key
)

func startEtcd(ctx context.Context, at place) (*system, error) {
	path, err := program{pkg: "go.etcd.io/etcd/server/v3"}.build(ctx, at.bin, "etcd")
	if err != nil {
		return nil, err
	}
	addrs, err := freeAddrs(2 * nodes)
	if err != nil {
		return nil, err
	}
	var initial, urls []string
	for i := range nodes {
		initial = append(initial, fmt.Sprintf("e%d=http://%s", i+1, addrs[nodes+i]))
		urls = append(urls, "http://"+addrs[i])
	}
	s, e := &system{name: "etcd"}, &etcd{}
	s.close = e.close
	for i := range nodes {
		name := fmt.Sprintf("e%d", i+1)
		peer := "http://" + addrs[nodes+i]
		if err := s.run(at.dir, name, path, "--name", name, "--data-dir", filepath.Join(at.dir, name),
			"--listen-client-urls", urls[i], "--advertise-client-urls", urls[i], "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-state", "new", "--log-level", "error",
			"--quota-backend-bytes", "17179869184"); err != nil {
			return s, err
		}
	}
	for range at.clients {
		c, err := clientv3.New(clientv3.Config{Endpoints: urls, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			return s, err
		}
		e.clients = append(e.clients, c)
	}
	s.tasks = map[string]task{
		"put": {open: e.puts}, "get": {open: e.gets()}, "get-serializable": {open: e.gets(clientv3.WithSerializable())},
		"get-absent": {open: e.absences}, "txn-64": {bulk: e.txns, workers: txnWorkers},
	}
	return s, eventually(ctx, "etcd is ready", s.nodes, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := e.clients[0].Get(ctx, "k")
		return err
	})
}

type etcd struct{ clients []*clientv3.Client }

func (e *etcd) close() {
	for _, c := range e.clients {
		_ = c.Close() // the measurement is over
	}
}

func (e *etcd) client(worker int) *clientv3.Client { return e.clients[worker%len(e.clients)] }

func (e *etcd) puts(_ context.Context, s session, worker int) (operation, func(), error) {
	c, key, value := e.client(worker), s.fresh(worker), string(s.value)
	return func(ctx context.Context) (int, error) {
		_, err := c.Put(ctx, key(), value)
		return 1, err
	}, func() {}, nil
}

func (e *etcd) gets(opts ...clientv3.OpOption) opener {
	return func(_ context.Context, s session, worker int) (operation, func(), error) {
		c, key := e.client(worker), s.reads()
		return func(ctx context.Context) (int, error) {
			r, err := c.Get(ctx, key(), opts...)
			if err == nil && (len(r.Kvs) != 1 || len(r.Kvs[0].Value) != len(s.value)) {
				err = errors.New("etcd has not found a key that is set")
			}
			return 1, err
		}, func() {}, nil
	}
}

func (e *etcd) absences(_ context.Context, s session, worker int) (operation, func(), error) {
	c, key := e.client(worker), s.fresh(worker)
	return func(ctx context.Context) (int, error) {
		r, err := c.Get(ctx, key())
		if err == nil && len(r.Kvs) != 0 {
			err = errSetAlready
		}
		return 1, err
	}, func() {}, nil
}

// txns puts keys in transactions, txnWorkers at a time.
func (e *etcd) txns(ctx context.Context, s session, keys int, acknowledged func(n int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left, value := numbers{end: int64(keys)}, string(s.value)
	var workers sync.WaitGroup
	for worker := range txnWorkers {
		c := e.client(worker)
		workers.Go(func() {
			var puts []clientv3.Op
			for from, to := left.take(txnPuts); from < to; from, to = left.take(txnPuts) {
				puts = puts[:0]
				for n := from; n < to; n++ {
					puts = append(puts, clientv3.OpPut(s.key(0, uint32(n)), value))
				}
				if err := commit(ctx, c, puts); err != nil {
					cancel(err)
					return
				}
				acknowledged(len(puts))
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// commit puts in one transaction, and retries if that fails.
func commit(ctx context.Context, c *clientv3.Client, puts []clientv3.Op) error {
	for breaks := 0; ; breaks++ {
		_, err := c.Txn(ctx).Then(puts...).Commit()
		if err == nil || breaks == breaksMax || !pause(ctx, 100*time.Millisecond) {
			return err
		}
		say("a transaction has failed and is made again: %v\n", err)
	}
}

// pause returns false if the context ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
