package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
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
of its own. Its "position" is what --since takes to go on behind it: the revision and
the history that it is of, REVISION.HISTORY.

If the cluster was restored, or forced out of another one, the same revision may be
another key. Then watch ends with exit code 7, and says how to go on.`,
		Example: `  oncekv watch
  oncekv watch app/ --since 0 --json
  oncekv watch --since "$(tail -n 1 seen | jq -r .position)" --json >>seen`,
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
	f.StringVar(&w.since, "since", sinceNow, "revision or position to begin after, or now")
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
		since, err := client.ParsePosition(w.since)
		if err != nil {
			return usageErrorf("--since %.200q is neither a revision, nor a position such as 42.%s, nor %q", w.since, strings.Repeat("0123456789abcdef", 2), sinceNow)
		}
		opts.Since, opts.History = since.Revision, since.History
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
	var changed *client.HistoryChangedError
	if errors.As(err, &changed) {
		what := *changed
		what.Detail = "" // it is for whoever knows less about the position
		return errors.Join(&what, severalLines(goOnAfter(changed)))
	}
	return err
}

// goOnAfter says how to go on where the history changed.
func goOnAfter(e *client.HistoryChangedError) string {
	since := shown(client.Position{Revision: e.Common(), History: e.History}.String())
	switch common := e.Common(); {
	case common == 0:
		return "Nothing that was shown before need be there. To read what is there now from its beginning: --since " + since
	case common < e.Asked.Revision:
		return fmt.Sprintf("What was shown up to revision %d is there still; what was shown behind it need not be. To go on: --since %s", common, since)
	}
	return "Everything that was shown is there still. To go on: --since " + since
}

// showChanges shows what follows opts.Since, or now, until ctx ends.
func (a *app) showChanges(ctx context.Context, cl *client.Client, opts client.ChangesOptions, now bool) error {
	if now {
		at, err := newest(ctx, cl)
		if err != nil {
			return err
		}
		opts.Since, opts.History = at.Revision, at.History
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

// newest is where the database is.
func newest(ctx context.Context, cl *client.Client) (at client.Position, err error) {
	members, err := cl.Members(ctx)
	if errors.Is(err, client.ErrServer) {
		return at, fmt.Errorf("only database nodes know the newest revision; give one of them with --endpoints, or a revision with --since: %w", err)
	}
	if err != nil {
		return at, err
	}
	at.History = members.History
	for _, m := range members.Members {
		at.Revision = max(at.Revision, m.Revision)
	}
	return at, nil
}

// watchDocument is what --json shows of a change.
type watchDocument struct {
	client.Change
	Position string `json:"position"` // what --since takes to go on behind it
}

func (a *app) showChange(c client.Change) error {
	if a.json {
		return writeJSON(a.stdout, watchDocument{c, c.Position().String()})
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
