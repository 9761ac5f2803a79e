package cachetier_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/kvstore"
)

func Example() {
	// A database node that has one key and keeps the registry.
	registry := cachetier.NewRegistry(cachetier.RegistryConfig{})
	database := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/caches" {
			var h api.Heartbeat
			json.NewDecoder(r.Body).Decode(&h)
			json.NewEncoder(w).Encode(registry.Heartbeat("127.0.0.1", h))
			return
		}
		digest := sha256.Sum256([]byte("bar"))
		w.Header().Set("ETag", strconv.Quote(hex.EncodeToString(digest[:])))
		w.Header().Set(api.HeaderRevision, "1")
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "bar")
	}))
	defer database.Close()

	node, err := cachetier.New(cachetier.NodeConfig{
		Name: "c1", URL: "http://127.0.0.1:5551", Nodes: []string{database.URL}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	done := make(chan error)
	go func() { done <- node.Run(ctx) }()

	for range 2 {
		value, source, err := node.Get(ctx, "foo", kvstore.Linearizable)
		if err != nil {
			fmt.Println(err)
			return
		}
		b, _ := value.Bytes()
		fmt.Printf("%s (%s, revision %d)\n", b, source, value.Revision)
	}

	leave()
	fmt.Println(<-done, node.Close())
	for _, c := range registry.Caches() {
		fmt.Println(c.Name, "healthy:", c.Healthy)
	}
	// Output:
	// bar (load, revision 1)
	// bar (hit, revision 1)
	// <nil> <nil>
	// c1 healthy: false
}
