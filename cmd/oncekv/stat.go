package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

func (a *app) statCommand() *cobra.Command {
	c := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "stat KEY",
		Short: "Show everything about a key except its value",
		Long: `Show the revision of a key, and the size, digest, content type and metadata of its
value, without reading the value. The exit code is 3 if the key is not set, and 6 if
its value was retired and is gone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(args[0]); err != nil {
				return err
			}
			return a.withClient(c, func(cl *client.Client) error { return a.stat(cmd.Context(), cl, args[0]) })
		},
	}
	c.register(a, cmd.Flags(), 30*time.Second)
	a.jsonFlag(cmd.Flags())
	return cmd
}

func (a *app) stat(ctx context.Context, cl *client.Client, key string) error {
	record, err := cl.Stat(ctx, key, client.GetOptions{})
	switch {
	case errors.Is(err, api.ErrNotFound):
		a.hintPrefix(ctx, cl, key)
		return notSetError(key)
	case err != nil:
		return err
	case a.json:
		return writeJSON(a.stdout, record)
	}
	return writeRecord(a.stdout, key, record)
}

func writeRecord(w io.Writer, key string, r api.Record) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "key\t%s\nrevision\t%d\nsize\t%d bytes\nsha256\t%s\ncontent type\t%s\n", shown(key), r.Revision, r.Size, r.SHA256, shown(r.ContentType))
	if r.Time != nil {
		fmt.Fprintf(t, "time\t%s\n", r.Time.Format(time.RFC3339Nano))
	}
	if r.By != "" {
		fmt.Fprintf(t, "put by\t%s\n", shown(r.By))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Meta)) {
		fmt.Fprintf(t, "meta %s\t%s\n", shown(name), shown(r.Meta[name]))
	}
	return t.Flush()
}
