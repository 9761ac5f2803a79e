package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// comparedStores returns the systems into which many keys are put at a time.
func (b *bench) comparedStores() []string {
	return slices.DeleteFunc([]string{"oncekv", "etcd"}, func(name string) bool { return !slices.Contains(b.Systems, name) })
}

// bulkPart puts many keys into stores that have many.
func (b *bench) bulkPart(ctx context.Context) error {
	names := b.comparedStores()
	if len(names) == 0 {
		return nil
	}
	return b.with(ctx, lineup{systems: names}, b.filled)
}

// filled fills the stores first; then each system has its turn in each round, once the one
// before writes no more.
func (b *bench) filled(ctx context.Context) error {
	for _, sys := range b.systems {
		say("filling %s with %s keys: ", sys.name, count(b.BulkStore))
		if err := b.fillAndRest(ctx, sys, b.BulkStore, "bulk-fill"); err != nil {
			return err
		}
	}
	for round := range b.Rounds {
		for _, sys := range b.systems {
			say("round %d of %d: %s keys into %s: ", round+1, b.Rounds, count(b.BulkKeys), sys.name)
			if err := b.fillAndRest(ctx, sys, b.BulkKeys, "bulk-"+bulkOf[sys.name]); err != nil {
				return err
			}
		}
	}
	q := ratio{name: fmt.Sprintf("POST /keys, %s keys in a store of %s ÷ etcd transactions of 64", count(b.BulkKeys), count(b.BulkStore)), least: 5}
	if of, to := b.report.of("oncekv/bulk-http-keys"), b.report.of("etcd/bulk-txn-64"); of != nil && to != nil {
		b.report.found(q.finding(of.Rounds, to.Rounds))
	}
	return nil
}

func (b *bench) fillAndRest(ctx context.Context, sys *system, keys int, name string) error {
	t := sys.tasks[bulkOf[sys.name]]
	r, err := t.bulk.run(ctx, sys, b.session(), keys)
	if err != nil {
		return errors.Join(fmt.Errorf("put %d keys into %s: %w", keys, sys.name, err), sys.ended())
	}
	say("%.0f keys/s\n", r.PerSecond)
	b.keep(sys.name+"/"+name, t.workers, r.measurement)
	_, err = b.settled(ctx, sys)
	return err
}
