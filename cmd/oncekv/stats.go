package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// nodeTimeout bounds the request to one node: a node that is down must not delay the others.
const nodeTimeout = 3 * time.Second

func (a *app) statsCommand() *cobra.Command {
	c := &clientFlags{}
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show statistics of all nodes",
		Long: `Ask every database node and every cache node for its statistics. The nodes are found
through /members and /caches of the given endpoints. A node that does not answer
within 3 seconds is shown with the reason, and the exit code is 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(c, func(cl *client.Client) error { return a.stats(cmd.Context(), cl) })
		},
	}
	c.register(a, cmd.Flags(), 10*time.Second)
	a.jsonFlag(cmd.Flags())
	return cmd
}

// statsDocument is the output of --json.
type statsDocument struct {
	Leader    string         `json:"leader"`
	Term      uint64         `json:"term"`
	Stale     bool           `json:"stale,omitempty"` // there was no quorum to confirm the members
	Databases []databaseFact `json:"databases"`
	Caches    []cacheFact    `json:"caches"`
}

// databaseFact is one database node, with its statistics or the reason why there are none.
type databaseFact struct {
	Name  string     `json:"name"`
	URL   string     `json:"url"`
	Error string     `json:"error,omitempty"`
	Stats *api.Stats `json:"stats,omitempty"`
}

type cacheFact struct {
	Name  string          `json:"name"`
	URL   string          `json:"url"`
	Error string          `json:"error,omitempty"`
	Stats *api.CacheStats `json:"stats,omitempty"`
}

func (a *app) stats(ctx context.Context, cl *client.Client) error {
	doc, err := gatherStats(ctx, cl)
	if err != nil {
		return err
	}
	if doc.Stale {
		fmt.Fprintln(a.stderr, "There is no quorum. The node that answered shows the members it knows.")
	}
	if a.json {
		err = writeJSON(a.stdout, doc)
	} else {
		err = doc.write(a.stdout)
	}
	return errors.Join(err, doc.verdict(a.stderr))
}

func gatherStats(ctx context.Context, cl *client.Client) (*statsDocument, error) {
	members, err := cl.Members(ctx)
	if err != nil {
		return nil, err
	}
	caches, err := cl.Caches(ctx)
	if err != nil {
		return nil, err
	}
	doc := &statsDocument{Leader: members.Leader, Term: members.Term, Stale: members.Stale, Databases: []databaseFact{}, Caches: []cacheFact{}}
	for _, m := range members.Members {
		doc.Databases = append(doc.Databases, databaseFact{Name: m.Name, URL: m.ClientURL})
	}
	for _, c := range caches {
		doc.Caches = append(doc.Caches, cacheFact{Name: c.Name, URL: c.URL})
	}
	slices.SortFunc(doc.Databases, func(a, b databaseFact) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(doc.Caches, func(a, b cacheFact) int { return strings.Compare(a.Name, b.Name) })
	doc.ask(ctx)
	return doc, nil
}

// ask asks all nodes at the same time.
func (d *statsDocument) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for i := range d.Databases {
		n := &d.Databases[i]
		asked.Go(func() { n.Stats, n.Error = statsOf(ctx, n.URL, (*client.Client).Stats) })
	}
	for i := range d.Caches {
		n := &d.Caches[i]
		asked.Go(func() { n.Stats, n.Error = statsOf(ctx, n.URL, (*client.Client).CacheStats) })
	}
	asked.Wait()
}

// statsOf asks one node, once: RetryTimeout leaves no time for a second try.
func statsOf[T any](ctx context.Context, url string, get func(*client.Client, context.Context) (T, error)) (*T, string) {
	cl, err := client.New(client.Config{Endpoints: []string{url}, FailRefused: true})
	if err != nil {
		return nil, err.Error()
	}
	s, err := get(cl, ctx)
	if err != nil {
		return nil, err.Error()
	}
	return &s, ""
}

func (d *statsDocument) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DATABASE\tROLE\tREADY\tREVISION\tAPPLIED\tKEYS\tVALUES\tDISK\tFREE\tPUTS\tCONFLICTS\tGETS\tABSENT\tUP\tURL")
	for _, n := range d.Databases {
		s := n.Stats
		if s == nil {
			fmt.Fprintf(t, "%s\tno answer\t%s%s\n", shown(n.Name), strings.Repeat("-\t", 12), shown(n.URL))
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%t\t%d\t%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", shown(n.Name), shown(s.Role), s.Ready, s.Revision, s.AppliedIndex, s.Keys,
			humanBytes(s.ValueBytes), humanBytes(onDisk(s)), humanBytes(s.DiskFreeBytes), s.Puts, s.Conflicts, s.Gets, s.Absences, up(s.UptimeSeconds), shown(n.URL))
	}
	d.writeIndexes(t)
	d.writeFiles(t)
	d.writeHistories(t)
	fmt.Fprintln(t)
	fmt.Fprintln(t, "CACHE\tREADY\tGETS\tHITS\tPEER LOADS\tDATABASE LOADS\tABSENT\tERRORS\tITEMS\tBYTES\tLIMIT\tUP\tURL")
	for _, n := range d.Caches {
		s := n.Stats
		if s == nil {
			fmt.Fprintf(t, "%s\tno answer\t%s%s\n", shown(n.Name), strings.Repeat("-\t", 10), shown(n.URL))
			continue
		}
		fmt.Fprintf(t, "%s\t%t\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", shown(n.Name), s.Ready, s.Gets, s.Hits, s.PeerLoads, s.DatabaseLoads, s.Absences, s.Errors,
			s.Items, humanBytes(s.Bytes), humanBytes(s.LimitBytes), up(s.UptimeSeconds), shown(n.URL))
	}
	return t.Flush()
}

// onDisk returns the size of a node's data without the log.
func onDisk(s *api.Stats) int64 {
	return s.HistoryBytes + s.IndexBytes + s.Values.LiveBytes + s.Values.DeadBytes
}

// writeIndexes shows the indexes of keys.
func (d *statsDocument) writeIndexes(t io.Writer) {
	fmt.Fprintln(t)
	fmt.Fprintln(t, "DATABASE\tINDEX\tRUNS\tKEYS\tFILTER BITS/KEY\tMERGED\tFALSE POSITIVES\tPAUSES")
	for _, n := range d.Databases {
		if n.Stats == nil {
			fmt.Fprintf(t, "%s%s\n", shown(n.Name), strings.Repeat("\t-", 7))
			continue
		}
		x := n.Stats.Index
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.1f\t%s\t%d\t%d\n", shown(n.Name), humanBytes(n.Stats.IndexBytes), x.Runs, x.Keys, x.FilterBitsPerKey, humanBytes(x.MergedBytes), x.FalsePositives, x.Pauses)
	}
}

// writeFiles shows the files of large values, and each node's last scrub.
func (d *statsDocument) writeFiles(t io.Writer) {
	fmt.Fprintln(t)
	fmt.Fprintln(t, "DATABASE\tBODIES\tLIVE\tDEAD\tRECLAIMED\tSCRUB\tLAST SCRUB\tTOOK\tRESULT")
	for _, n := range d.Databases {
		if n.Stats == nil {
			fmt.Fprintf(t, "%s%s\n", shown(n.Name), strings.Repeat("\t-", 8))
			continue
		}
		v, running, last, took, result := n.Stats.Values, "-", "-", "-", "-"
		s := n.Stats.Scrub
		if s.Running {
			running = fmt.Sprintf("%.0f %%", math.Floor(100*s.Fraction))
		}
		if s.LastEnd != nil {
			last, took, result = s.LastEnd.UTC().Format(time.RFC3339), up(s.LastTookSeconds), shown(s.LastResult)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", shown(n.Name), v.Bodies, humanBytes(v.LiveBytes), humanBytes(v.DeadBytes), humanBytes(v.ReclaimedBytes), running, last, took, result)
	}
}

// writeHistories shows each database node's history, and the history from which it continued.
func (d *statsDocument) writeHistories(t io.Writer) {
	fmt.Fprintln(t)
	fmt.Fprintln(t, "DATABASE\tHISTORY\tLEVEL\tPROGRAM KNOWS")
	var histories []*api.History
	for _, n := range d.Databases {
		if n.Stats == nil {
			fmt.Fprintf(t, "%s\t-\t-\t-\n", shown(n.Name))
			continue
		}
		id, h := "-", n.Stats.History
		if h != nil {
			id = shown(h.ID)
			if !slices.ContainsFunc(histories, func(other *api.History) bool { return other.ID == h.ID }) {
				histories = append(histories, h)
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\n", shown(n.Name), id, n.Stats.Level.Store, n.Stats.Level.Program)
	}
	head := "\nHISTORY\tWENT ON FROM\tAT REVISION\tHEAD\n"
	for _, h := range histories {
		child := h.ID
		for _, parent := range slices.Backward(h.Parents) {
			fmt.Fprintf(t, "%s%s\t%s\t%d\t%s\n", head, shown(child), shown(parent.ID), parent.Revision, shown(parent.Head))
			head, child = "", parent.ID
		}
	}
}

func up(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

// verdict says why nodes are missing in the table.
func (d *statsDocument) verdict(stderr io.Writer) error {
	silent := 0
	tell := func(name, reason string) {
		if reason != "" {
			silent++
			fmt.Fprintf(stderr, "%s: %s\n", shown(name), legible(reason))
		}
	}
	for _, n := range d.Databases {
		tell(n.Name, n.Error)
	}
	for _, n := range d.Caches {
		tell(n.Name, n.Error)
	}
	if silent > 0 {
		return fmt.Errorf("%d of %d nodes did not answer", silent, len(d.Databases)+len(d.Caches))
	}
	return nil
}
