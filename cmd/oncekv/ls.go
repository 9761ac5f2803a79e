package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// lsFlags are the flags of ls.
type lsFlags struct {
	clientFlags
	long  bool
	limit int
	local bool
}

func (a *app) lsCommand() *cobra.Command {
	l := &lsFlags{}
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List the keys that are set",
		Long: `List the keys that begin with PREFIX, or all keys, in byte order, one per line.

A key that cannot be shown as one line of plain text is quoted as in Go ("\xff").
--json writes one JSON object per line, one for each key. If the cluster is restored
or forced meanwhile, ls ends with exit code 7: run it again.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ls(cmd.Context(), l, strings.Join(args, ""))
		},
	}
	f := cmd.Flags()
	l.register(a, f, 30*time.Second)
	a.jsonFlag(f)
	f.BoolVarP(&l.long, "long", "l", false, "show revision, size and content type too")
	f.IntVar(&l.limit, "limit", 0, "stop after this many keys; 0 for all")
	f.BoolVar(&l.local, "local", false, "list what one node knows, without asking a majority; it may lag behind")
	return cmd
}

func (a *app) ls(ctx context.Context, l *lsFlags, prefix string) error {
	if l.limit < 0 {
		return usageErrorf("--limit must not be below zero")
	}
	cl, err := l.client()
	if err != nil {
		return err
	}
	const pageMax = 1000
	opts := client.KeysOptions{Prefix: prefix, Local: l.local, PageLimit: min(l.limit, pageMax)}
	out := bufio.NewWriter(a.stdout)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	n := 0
	for r, err := range cl.Keys(ctx, opts) {
		if err != nil {
			return errors.Join(err, table.Flush(), out.Flush())
		}
		if err := a.showKey(out, table, l.long, r); err != nil {
			return err
		}
		if n++; n == l.limit {
			break
		}
		if n%pageMax == 0 { // columns line up within a page; memory stays bounded
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	return errors.Join(table.Flush(), out.Flush())
}

func (a *app) showKey(out, table io.Writer, long bool, r api.Record) error {
	if a.json {
		return writeJSON(out, r)
	}
	key, err := r.RawKey()
	if err != nil {
		return err
	}
	if long {
		_, err = fmt.Fprintf(table, "%d\t%d\t%s\t%s\n", r.Revision, r.Size, shown(r.ContentType), shown(key))
	} else {
		_, err = fmt.Fprintln(out, shown(key))
	}
	return err
}
