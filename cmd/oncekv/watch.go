package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
)

// watchFlags are the command line of a watch.
type watchFlags struct {
	clientFlags
	since  string
	values bool
	limit  int
}

const sinceNow = "now"

func (a *app) watchCommand() *cobra.Command {
	w := &watchFlags{}
	cmd := &cobra.Command{
		Use:   "watch [PREFIX]",
		Short: "Show keys as they are set",
		Long: `Show every key that begins with PREFIX (or any key) as it is set, once and in the
order of revisions, for ever. --since 0 begins with the first key ever set, --since
R after revision R.

Nodes may come and go meanwhile: watch goes on at another one where it stood, and
says so on standard error. --json writes one JSON object for each key, on a line
of its own.`,
		Example: `  oncekv watch
  oncekv watch app/ --since 0 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.watch(cmd.Context(), w, strings.Join(args, ""))
		},
	}
	f := cmd.Flags()
	w.register(a, f, 5*time.Second)
	w.forever = true
	f.Lookup("timeout").Usage = "how long nodes are sought before watch says that there are none, and goes on seeking"
	a.jsonFlag(f)
	f.StringVar(&w.since, "since", sinceNow, "revision to begin after, or now")
	f.BoolVar(&w.values, "values", false, "show values of up to 1 MiB too")
	f.IntVar(&w.limit, "limit", 0, "end after so many keys; 0 for never")
	return cmd
}

func (a *app) watch(ctx context.Context, w *watchFlags, prefix string) error {
	if w.limit < 0 {
		return usageErrorf("--limit must not be below zero")
	}
	opts := client.ChangesOptions{Prefix: prefix, Follow: true, Values: w.values, Limit: w.limit}
	if w.since != sinceNow {
		var err error
		if opts.Since, err = strconv.ParseUint(w.since, 10, 64); err != nil {
			return usageErrorf("--since %q is neither a revision nor %q", w.since, sinceNow)
		}
	}
	cl, err := w.client()
	if err != nil {
		return err
	}
	ctx, stop := a.whileRead(ctx)
	defer stop()
	err = a.showChanges(ctx, cl, opts, w.since == sinceNow)
	if errors.Is(context.Cause(ctx), errReaderGone) {
		return errReaderGone
	}
	return err
}

// showChanges shows what follows opts.Since, or now, until ctx ends.
func (a *app) showChanges(ctx context.Context, cl *client.Client, opts client.ChangesOptions, now bool) error {
	if now {
		var err error
		if opts.Since, err = newest(ctx, cl); err != nil {
			return err
		}
	}
	opts.OnBreak = func(err error) { fmt.Fprintf(a.stderr, "oncekv: %s; going on\n", legible(err.Error())) }
	for change, err := range cl.Changes(ctx, opts) {
		if ctx.Err() != nil {
			return nil // it was told to end
		}
		if err != nil {
			return err
		}
		if err := a.showChange(change); err != nil {
			return err
		}
	}
	return nil
}

// newest is the revision that the database is at.
func newest(ctx context.Context, cl *client.Client) (uint64, error) {
	members, err := cl.Members(ctx)
	if errors.Is(err, client.ErrServer) {
		return 0, fmt.Errorf("only database nodes know the newest revision; give one of them with --endpoints, or a revision with --since: %w", err)
	}
	if err != nil {
		return 0, err
	}
	var revision uint64
	for _, m := range members.Members {
		revision = max(revision, m.Revision)
	}
	return revision, nil
}

func (a *app) showChange(c client.Change) error {
	if a.json {
		return writeJSON(a.stdout, c)
	}
	key, err := c.RawKey()
	if err != nil {
		return err
	}
	value, carried, err := c.Bytes()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%d %s %d bytes%s\n", c.Revision, shown(key), c.Size, shownValue(value, carried))
	return err
}

// shownValue is a value at the end of a line, in base64 if it is not text.
func shownValue(value []byte, carried bool) string {
	switch {
	case !carried:
		return ""
	case utf8.Valid(value):
		return " " + shown(string(value))
	}
	return " base64:" + base64.StdEncoding.EncodeToString(value)
}
