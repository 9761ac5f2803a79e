package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
)

// importFlags are the flags of an import.
type importFlags struct {
	clientFlags
	prefix   string
	parallel int
	exclude  []string
	dryRun   bool
}

func (a *app) importCommand() *cobra.Command {
	i := &importFlags{}
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Set one key for each file below DIR",
		Long: `Set one key for each regular file below DIR. The key is the prefix and the file's
path relative to DIR, with slashes. The content type follows from the extension.

An import can be repeated: files whose keys are set already are "unchanged". A key
that is set to other bytes is a conflict and stays as it is. The exit code is 4 if
there was a conflict, even if something else failed too, and 5 if the outcome of some
files is unknown (repeat the import to find out). If a file changes while it is read,
its key is not set. Symbolic links and other special files are skipped and counted.

A key cannot be changed later, so try first: --dry-run sets nothing and reports for
each file whether its key would be created, is unchanged or is a conflict. A prefix
that does not end in / makes keys like appindex.html, so import asks first; without a
terminal it needs --yes.

--exclude leaves out files and directories, and can be given more than once. A
pattern without / matches a name at any depth (*.log, .git). A pattern with / matches
the path from DIR (/build, docs/*.tmp, src/**/*.o). A pattern that ends in / matches
directories only (node_modules/).`,
		Example: `  oncekv import "$(go env GOMODCACHE)/cache/download" --prefix goproxy/
  oncekv import dist --prefix app/v1.2.3/ --exclude '*.map' --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.importDir(cmd.Context(), i, args[0]) },
	}
	f := cmd.Flags()
	i.register(a, f, time.Minute)
	a.jsonFlag(f)
	f.Lookup("json").Usage = "write JSON: the counts, and the first 100 files that were not set, or with --dry-run would not be set"
	f.StringVar(&i.prefix, "prefix", "", "text to put before every key, such as goproxy/ (default none: the path is the key)")
	f.IntVar(&i.parallel, "parallel", 8, "how many files to send at the same time")
	f.StringArrayVar(&i.exclude, "exclude", nil, "pattern of files and directories to leave out; can be given more than once")
	f.BoolVar(&i.dryRun, "dry-run", false, "set nothing, and show what would be set")
	a.yesFlag(f, "using a prefix that does not end in /")
	return cmd
}

func (a *app) importDir(ctx context.Context, i *importFlags, dir string) error {
	const parallelMax = 1024
	if i.parallel < 1 || i.parallel > parallelMax {
		return usageErrorf("--parallel must be 1 to %d", parallelMax)
	}
	exclude, err := parseExclusions(i.exclude)
	if err != nil {
		return err
	}
	cl, err := i.client()
	if err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(dir) // DIR itself may be a link
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	im := &importer{client: cl, root: root, prefix: i.prefix, parallel: i.parallel, exclude: exclude}
	if i.dryRun {
		im.client, im.sum.dryRun = a.dryRun(cl), true
	} else if err := a.confirmPrefix(ctx, i.prefix); err != nil {
		return err
	}
	if isTerminal(a.stderr) {
		im.bar = a.progress("import", im.totalBytes(ctx))
	}
	start := time.Now()
	err = im.run(ctx)
	im.bar.finish()
	im.sum.took = time.Since(start)
	if errors.Is(err, errReaderGone) {
		return err
	}
	showErr := a.showSummary(dir, &im.sum)
	if i.dryRun && errors.Is(showErr, errReaderGone) { // a dry run does nothing but show
		return showErr
	}
	return errors.Join(withoutReaderGone(showErr), im.sum.verdict(err))
}

func parseExclusions(patterns []string) ([]exclusion, error) {
	var all []exclusion
	for _, pattern := range patterns {
		e, err := parseExclusion(pattern)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// confirmPrefix asks about a prefix without a separator at its end: it was hardly meant to run
// into the file names.
func (a *app) confirmPrefix(ctx context.Context, prefix string) error {
	if prefix == "" || strings.HasSuffix(prefix, "/") {
		return nil
	}
	return a.confirm(ctx, fmt.Sprintf("The prefix %s does not end in /, so the file index.html will have the key %s, which cannot be changed later.",
		shown(prefix), shown(prefix+"index.html")), prefix)
}

func (a *app) dryRun(cl *client.Client) *dryRun {
	if a.json {
		return &dryRun{client: cl}
	}
	return &dryRun{client: cl, out: a.stdout}
}

func (a *app) showSummary(dir string, s *summary) error {
	if a.json {
		return writeJSON(a.stdout, s.document())
	}
	s.writeProblems(a.stderr)
	return s.write(a.stdout, dir)
}
