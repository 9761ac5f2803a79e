package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/server"
)

// cacheFlags are the flags of a cache node.
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
		Long: `Run a cache node. It serves reads from memory, shares the work with the other cache
nodes, and forwards puts to a database node. If no database node is up, it starts
anyway and waits for one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cache(cmd.Context(), c) },
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "c1", "name of the node")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:5551", "address to listen on for clients and other cache nodes")
	f.StringVar(&c.Advertise, "advertise", "", "URL at which others reach this node, if it differs from --listen")
	f.StringSliceVar(&c.Nodes, "nodes", []string{"http://127.0.0.1:11000"}, "database nodes to ask first, by client URL or host:port; the other nodes are learned from them")
	f.Var(&c.cacheBytes, "cache-bytes", "memory for cached values")
	f.IntVar(&c.MaxConnections, "max-connections", 0, "limit of open client connections; above it, idle ones are closed, then new ones are refused (default 16384, or about half of the open files allowed)")
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
	c.LimitMemory = a.env("GOMEMLIMIT") == "" // the user's choice wins
	cache, err := server.StartCache(ctx, c.CacheConfig)
	if err != nil {
		return startError(ctx, "cache node "+c.Name, err)
	}
	a.tellPlaces(c.Logger, "cache node "+c.Name, slog.String("clients", cache.URL()))
	return a.supervise(ctx, namedNode{"cache node " + c.Name, cache})
}
