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

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// watchFlags are the flags of a watch.
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
		Long: `Show each key that begins with PREFIX (or any key) as it is set, once and in the
order of revisions, until Ctrl-C. --since 0 starts with the first key ever set,
--since R after revision R.

If a node goes away, watch continues at another node from the same revision, and says
so on standard error. --json writes one JSON object per line, one for each key. To
continue after a key, give its "position" to --since: it is REVISION.HISTORY, the
revision and the history that it belongs to.

If the cluster was restored or forced, the same revision may be another key. Then
watch ends with exit code 7 and says how to continue.`,
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
	f.Lookup("timeout").Usage = "how long to look for a node before reporting that none answers; watch then keeps looking"
	a.jsonFlag(f)
	f.StringVar(&w.since, "since", sinceNow, "revision or position to start after, or now")
	f.BoolVar(&w.values, "values", false, "show values of up to 1 MiB too")
	f.IntVar(&w.limit, "limit", 0, "stop after this many keys; 0 for no limit")
	return cmd
}

func (a *app) watch(ctx context.Context, w *watchFlags, prefix string) error {
	if w.limit < 0 {
		return usageErrorf("--limit must not be below zero")
	}
	opts := client.ChangesOptions{Prefix: prefix, Follow: true, Values: w.values, Limit: w.limit}
	if w.since != sinceNow {
		since, err := api.ParsePosition(w.since)
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
		what.Detail = "" // the detail is for clients that know less about the position
		return errors.Join(&what, severalLines(goOnAfter(changed)))
	}
	return err
}

// goOnAfter returns how to continue after the history changed.
func goOnAfter(e *client.HistoryChangedError) string {
	since := shown(api.Position{Revision: e.Common(), History: e.History}.String())
	switch common := e.Common(); {
	case common == 0:
		return "Nothing that was shown before may exist now. To read the new history from its beginning: --since " + since
	case common < e.Asked.Revision:
		return fmt.Sprintf("What was shown up to revision %d still exists; what was shown after it may not. To continue: --since %s", common, since)
	}
	return "Everything that was shown still exists. To continue: --since " + since
}

// showChanges shows the changes after opts.Since, or from now on, until ctx ends.
func (a *app) showChanges(ctx context.Context, cl *client.Client, opts client.ChangesOptions, now bool) error {
	if now {
		at, err := newest(ctx, cl)
		if err != nil {
			return err
		}
		opts.Since, opts.History = at.Revision, at.History
	}
	opts.OnBreak = func(err error) { fmt.Fprintf(a.stderr, "oncekv: %s; continuing\n", legible(err.Error())) }
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

// newest returns the newest position.
func newest(ctx context.Context, cl *client.Client) (at api.Position, err error) {
	members, err := cl.Members(ctx)
	if errors.Is(err, api.ErrServer) {
		return at, fmt.Errorf("only database nodes know the newest revision; name one with --endpoints, or give a revision with --since: %w", err)
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

// watchDocument is the --json output of a change.
type watchDocument struct {
	api.Change
	Position string `json:"position"` // --since continues after it
}

func (a *app) showChange(c api.Change) error {
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

// shownValue returns a value for the end of a line, in base64 if it is not text.
func shownValue(value []byte, carried bool) string {
	switch {
	case !carried:
		return ""
	case utf8.Valid(value):
		return " " + shown(string(value))
	}
	return " base64:" + base64.StdEncoding.EncodeToString(value)
}
