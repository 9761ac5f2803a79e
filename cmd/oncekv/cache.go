package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/server"
)

// cacheFlags are the command line of a cache node.
type cacheFlags struct {
	server.CacheConfig
	cacheBytes byteSize
	log        logFlags
}

func (a *app) cacheCommand() *cobra.Command {
	c := &cacheFlags{cacheBytes: 64 << 20}
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Run a cache node",
		Long: `Run a cache node until it is told to stop. It serves reads from memory, shares
the work with the other cache nodes, and forwards puts to a database node. It
starts, and waits, when no database node is up.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cache(cmd.Context(), c) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "c1", "name of the node")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:5551", "address for clients and other cache nodes")
	f.StringVar(&c.Advertise, "advertise", "", "URL by which others reach --listen, if it is another")
	f.StringSliceVar(&c.Nodes, "nodes", []string{"http://127.0.0.1:11000"}, "database nodes to begin with, by the URL or host:port for clients; the others are learned from them")
	f.Var(&c.cacheBytes, "cache-bytes", "memory for cached values")
	f.IntVar(&c.MaxConnections, "max-connections", 0, "connections of clients at the same time; past it idle ones are closed, then new ones refused (default 16384, or about half of the open files allowed)")
	registerAllowedHosts(f, &c.AllowedHosts)
	c.log.register(f, 0)
	return cmd
}

func (a *app) cache(ctx context.Context, c *cacheFlags) error {
	if err := atLeastOne("cache-bytes", c.cacheBytes); err != nil { // zero would be the default
		return err
	}
	c.CacheBytes, c.Logger = int64(c.cacheBytes), a.logger(c.log)
	addSchemes(c.Nodes)
	if err := c.Check(); err != nil {
		return err
	}
	c.LimitMemory = a.env("GOMEMLIMIT") == "" // who sets it knows better
	cache, err := server.StartCache(ctx, c.CacheConfig)
	if err != nil {
		return startError(ctx, "cache node "+c.Name, err)
	}
	a.tellPlaces(c.Logger, "cache node "+c.Name, slog.String("clients", cache.URL()))
	return a.supervise(ctx, namedNode{"cache node " + c.Name, cache})
}
