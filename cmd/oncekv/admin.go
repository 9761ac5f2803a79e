package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/server"
)

// adminFlags are the command line of an admin.
type adminFlags struct {
	server.AdminConfig
	log logFlags
}

func (a *app) adminCommand() *cobra.Command {
	d := &adminFlags{}
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Run the admin page",
		Long: `Run the admin until it is told to stop: a web page that shows all nodes, keys and
changes, and with which members are added, promoted and removed. It finds the
nodes by itself from any database node of --nodes, keeps nothing, and may run
any number of times. It has no access control: whoever reaches it can put keys
and change the cluster.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.admin(cmd.Context(), d) },
	}
	f := cmd.Flags()
	f.StringVar(&d.Listen, "listen", loopback(devAdminPort), "address for browsers")
	f.StringSliceVar(&d.Nodes, "nodes", []string{"http://127.0.0.1:11000"}, "database nodes to begin with, by the URL or host:port for clients; the others are learned from them")
	f.IntVar(&d.MaxConnections, "max-connections", 0, "connections at the same time; past it idle ones are closed, then new ones refused (default 16384, or about half of the open files allowed)")
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
