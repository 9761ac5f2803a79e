package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/server"
)

// adminFlags are the flags of an admin.
type adminFlags struct {
	server.AdminConfig
	log logFlags
}

func (a *app) adminCommand() *cobra.Command {
	d := &adminFlags{}
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Run the admin page",
		Long: `Run the admin, a web page that shows all nodes, keys and changes, and that adds,
promotes and removes members. It learns of all nodes from any database node in
--nodes. It stores nothing, so you can run more than one. It has no access control:
anyone who can reach it can put keys and change the cluster.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.admin(cmd.Context(), d) },
	}
	f := cmd.Flags()
	f.StringVar(&d.Listen, "listen", loopback(devAdminPort), "address to listen on for browsers")
	f.StringSliceVar(&d.Nodes, "nodes", []string{"http://127.0.0.1:11000"}, "database nodes to ask first, by client URL or host:port; the other nodes are learned from them")
	f.IntVar(&d.MaxConnections, "max-connections", 0, "limit of open connections; above it, idle ones are closed, then new ones are refused (default 16384, or about half of the open files allowed)")
	registerAllowedHosts(f, &d.AllowedHosts)
	d.log.register(f, 0)
	return cmd
}

func (a *app) admin(ctx context.Context, d *adminFlags) error {
	addSchemes(d.Nodes)
	if err := d.Check(); err != nil {
		return err
	}
	d.Logger = a.logger(d.log)
	admin, err := server.StartAdmin(ctx, d.AdminConfig)
	if err != nil {
		return startError(ctx, "the admin", err)
	}
	a.tellPlaces(d.Logger, "the admin", slog.String("browsers", admin.URL()))
	return a.supervise(ctx, namedNode{"the admin", admin})
}
