package main

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/load"
)

// dataSet makes sure that the keys to read are set. Each time it has set some number of keys,
// it records that number in a mark, a key of its own. The next run looks for the highest mark
// and sets what is missing.
type dataSet struct {
	client *client.Client
	data   *load.Data
	prefix string
	keys   uint64
	maySet func(context.Context, *client.Client) error // is called before keys are set
}

const (
	dataStreams   = 4         // concurrent
	dataMarkEvery = 1_000_000 // keys
)

func (d *dataSet) marks() string { return d.prefix + "loaded/" }

func (d *dataSet) load(ctx context.Context, a *app) error {
	from, err := d.loaded(ctx)
	if err != nil || from >= d.keys {
		return err
	}
	if err := d.maySet(ctx, d.client); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "setting %d keys %s…\n", d.keys-from, shown(d.prefix))
	bar := a.steps("set", int64(d.keys-from))
	defer bar.finish()
	for from < d.keys {
		to := min(from+dataMarkEvery, d.keys)
		if err := d.put(ctx, from, to, bar); err != nil {
			return fmt.Errorf("set the keys to be read: %w", err)
		}
		mark := fmt.Sprintf("%s%016d", d.marks(), to)
		if _, err := d.client.PutBytes(ctx, mark, []byte("keys below this number are set\n"), client.PutOptions{ContentType: "text/plain"}); err != nil {
			return fmt.Errorf("record that the keys to be read are set: %w", err)
		}
		from = to
	}
	return nil
}

// loaded returns how many keys are known to be set.
func (d *dataSet) loaded(ctx context.Context) (n uint64, err error) {
	for record, err := range d.client.Keys(ctx, client.KeysOptions{Prefix: d.marks()}) {
		if err != nil {
			return 0, fmt.Errorf("look for the keys to be read: %w", err)
		}
		mark, err := strconv.ParseUint(strings.TrimPrefix(record.Key, d.marks()), 10, 64)
		if err == nil { // else another program set it
			n = max(n, mark)
		}
	}
	return n, nil
}

// put sets the keys from from up to to, in several streams.
func (d *dataSet) put(ctx context.Context, from, to uint64, bar *progress) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var streams sync.WaitGroup
	for s := range uint64(dataStreams) {
		streams.Go(func() {
			for r, err := range d.client.PutAll(ctx, d.items(from+s, to)) {
				if err == nil {
					err = r.Err
				}
				if err != nil {
					cancel(err)
					return
				}
				bar.add(1)
			}
		})
	}
	streams.Wait()
	return context.Cause(ctx)
}

// items yields the puts of one stream.
func (d *dataSet) items(from, to uint64) iter.Seq[client.PutItem] {
	return func(yield func(client.PutItem) bool) {
		for n := from; n < to; n += dataStreams {
			if item := d.data.Item(n); !yield(client.PutItem{Key: item.Key, Value: item.Value}) {
				return
			}
		}
	}
}
