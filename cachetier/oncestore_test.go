package cachetier_test

import (
	"context"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/oncetest"
)

// A cache node passes the suite of all stores: it reads from its own memory, another
// cache node's, or a database node, and forwards what it does not do itself. So does one
// that somebody else puts past.
func TestNode_SetsOnce(t *testing.T) {
	t.Parallel()
	c := clustertest.Start(t, 3, 2)
	through, past := clustertest.Client(t, c.Caches[0].URL()), c.Client(t)
	t.Cleanup(through.Close)
	t.Cleanup(past.Close)
	cache := oncetest.OfClient(through)
	t.Run("through", func(t *testing.T) {
		oncetest.Run(t, func(*testing.T) oncetest.Store { return cache })
	})
	t.Run("past", func(t *testing.T) {
		oncetest.Run(t, func(*testing.T) oncetest.Store { return pastCache{cache, oncetest.OfClient(past)} })
	})
}

// pastCache is a cache node whose keys are put at the database nodes.
type pastCache struct {
	oncetest.Store
	databases oncetest.Store
}

func (s pastCache) Put(ctx context.Context, p oncetest.Put) (oncetest.Result, error) {
	return s.databases.Put(ctx, p)
}
