package kvstore_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore"
)

// oneNode is the smallest Log: what is proposed is committed and applied at once.
type oneNode struct {
	mu    sync.Mutex
	store *kvstore.Store
	index uint64
}

func (n *oneNode) ProposeMany(_ context.Context, commands [][]byte, each func(i int, result any, err error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	results, err := n.store.Apply(n.index, 1, commands, nil)
	for i := range commands {
		if err != nil {
			each(i, nil, err)
			continue
		}
		each(i, results[i], nil)
	}
}

func (n *oneNode) Distribute(ctx context.Context, list []bodies.Body) error {
	for _, b := range list {
		if _, err := n.store.Bodies().Append(b.Digest, b.Data); err != nil {
			return err
		}
	}
	return n.store.Bodies().Sync(ctx)
}

func (n *oneNode) ReadIndex(context.Context) error { return nil }

func Example() {
	dir, err := os.MkdirTemp("", "kvstore")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	store, err := kvstore.OpenStoreDir(dir, kvstore.StoreConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	db := kvstore.NewDB(store, &oneNode{store: store}, kvstore.DBConfig{})

	ctx := context.Background()
	for _, value := range []string{"bar", "bar", "other"} {
		res, err := db.Put(ctx, kvstore.PutRequest{Key: "foo", ContentType: "text/plain", Body: strings.NewReader(value), Size: -1})
		fmt.Println(res.Outcome, res.Meta.Revision, err)
	}
	value, err := db.Get(ctx, "foo", kvstore.Linearizable)
	if err != nil {
		fmt.Println(err)
		return
	}
	b, _ := value.Bytes()
	fmt.Printf("%s, %s, %d bytes\n", b, value.ContentType, value.Size)
	// Output:
	// created 1 <nil>
	// unchanged 1 <nil>
	// conflict 1 <nil>
	// bar, text/plain, 3 bytes
}
