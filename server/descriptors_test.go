package server

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Whatever limits are asked for, listeners and the nodes' own files together never exceed
// the process's limit, and no part ends up empty.
func TestDescriptors_Divide(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	kinds := map[string]NodeCounts{
		"serve": {Databases: 1}, "cache": {Caches: 1}, "admin": {Admins: 1}, "dev": {Databases: 3, Caches: 3, Admins: 1},
	}
	for kind, n := range kinds {
		for _, limit := range []int{64, 128, 200, 256, 800, 1024, 4096, 65536, 1 << 20} {
			for _, asked := range []int{0, 1, 64, 1000, 1 << 20} {
				t.Run(fmt.Sprint(kind, "/", limit, "/", asked), func(t *testing.T) {
					d, err := divide(limit, n)
					if err != nil {
						if !errors.Is(err, ErrDescriptors) || !strings.Contains(err.Error(), "ulimit -n") || !strings.Contains(err.Error(), fmt.Sprint(limit)) {
							t.Errorf("%v", err)
						}
						if limit >= 1024 || kind != "dev" && limit >= 200 {
							t.Errorf("refused: %v", err)
						}
						return
					}
					if limit <= 64 {
						t.Fatal("accepted")
					}
					clients, peers := d.database(asked, logger)
					cache, admin := d.cache(asked, logger), d.admin(asked, logger)
					all := processFiles + n.Databases*(databaseFiles+clients+peers) + n.Caches*(disklessFiles+cache) + n.Admins*(disklessFiles+admin)
					if all > limit {
						t.Errorf("%d clients, %d peers, cache %d, admin %d: %d of %d", clients, peers, cache, admin, all, limit)
					}
					if peers < partMin || clients < 1 || asked > 0 && clients > asked {
						t.Errorf("%d clients, %d peers", clients, peers)
					}
				})
			}
		}
	}
}
