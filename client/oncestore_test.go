package client_test

import (
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/oncetest"
)

// A client of a database node passes the suite of all stores, whether its calls travel
// together or each alone.
func TestClient_SetsOnce(t *testing.T) {
	t.Parallel()
	node := clustertest.Start(t, 1, 0).DBs[0]
	for name, cfg := range map[string]client.Config{
		"together": {},
		"alone":    {SingleRequests: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Endpoints = []string{node.URL()}
			c, err := client.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			oncetest.Run(t, func(*testing.T) oncetest.Store { return oncetest.OfClient(c) })
		})
	}
}
