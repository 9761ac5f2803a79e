package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// importFlags are the command line of an import.
type importFlags struct {
	clientFlags
	prefix   string
	parallel int
}

func (a *app) importCommand() *cobra.Command {
	i := &importFlags{}
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Set one key for every file below DIR",
		Long: `Set a key for every regular file below DIR: the prefix and the file's path
relative to DIR, with slashes. The content type follows from the extension.

An import can be repeated: files that are set already are "unchanged". A key that
is set to other bytes is a conflict and stays as it is; then the exit code is 4,
even if something else failed too. Symbolic links and other special files are
skipped, and counted.`,
		Example: `  oncekv import $(go env GOMODCACHE)/cache/download --prefix goproxy/`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.importDir(cmd.Context(), i, args[0]) },
	}
	f := cmd.Flags()
	i.register(f, time.Minute)
	a.jsonFlag(f)
	f.StringVar(&i.prefix, "prefix", "", "put before every key, such as goproxy/")
	f.IntVar(&i.parallel, "parallel", 8, "files sent at the same time")
	return cmd
}

func (a *app) importDir(ctx context.Context, i *importFlags, dir string) error {
	const parallelMax = 1024
	if i.parallel < 1 || i.parallel > parallelMax {
		return usageErrorf("--parallel must be 1 to %d", parallelMax)
	}
	cl, err := i.client()
	if err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(dir) // DIR itself may be a link
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	im := &importer{client: cl, root: root, prefix: i.prefix, parallel: i.parallel}
	if isTerminal(a.stderr) {
		im.bar = a.progress("import", totalBytes(ctx, root))
	}
	start := time.Now()
	err = im.run(ctx)
	im.bar.finish()
	im.sum.took = time.Since(start)
	return errors.Join(told(a.showSummary(dir, &im.sum)), im.sum.verdict(err))
}

func (a *app) showSummary(dir string, s *summary) error {
	if a.json {
		return writeJSON(a.stdout, s.document())
	}
	s.writeProblems(a.stderr)
	return s.write(a.stdout, dir)
}
