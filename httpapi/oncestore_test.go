package httpapi

import (
	"context"
	"errors"
	"iter"
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/oncetest"
)

// The API over the fake that all tests here use passes the suite of all stores, so that
// what they show holds for a database, too.
func TestFakeDB_SetsOnce(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Config{Endpoints: []string{newNode(t).url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	oncetest.Run(t, func(*testing.T) oncetest.Store { return withoutWalks{oncetest.OfClient(c)} })
}

// withoutWalks is a store whose lists and changes are whatever a test says.
type withoutWalks struct{ oncetest.Store }

func (withoutWalks) Lacks() []oncetest.Capability {
	return []oncetest.Capability{oncetest.Listing, oncetest.Walking}
}

func (withoutWalks) List(context.Context, oncetest.ListRange) iter.Seq2[oncetest.Record, error] {
	return unsupported
}

func (withoutWalks) Changes(context.Context, uint64, string) iter.Seq2[oncetest.Record, error] {
	return unsupported
}

func unsupported(yield func(oncetest.Record, error) bool) {
	yield(oncetest.Record{}, errors.ErrUnsupported)
}
