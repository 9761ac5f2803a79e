package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// batchFlags are the command line of a batch.
type batchFlags struct {
	clientFlags
}

func (a *app) batchCommand() *cobra.Command {
	b := &batchFlags{}
	cmd := &cobra.Command{
		Use:   "batch [FILE|-]",
		Short: "Set many keys, one for every line of JSON",
		Long: `Set a key for every line of FILE, or of standard input. A line is a JSON object:

  {"key":"greeting","value":"hello"}
  {"key_base64":"/w==","value":"3q2+7w==","encoding":"base64","content_type":"image/png"}
  {"key":"app/v2","value":"…","meta":{"commit":"9f2c1d0"}}

"key_base64" is for keys that are not UTF-8, "encoding":"base64" for values that
are not. The content type is text/plain; charset=utf-8 unless a line has one. "meta"
has names and values to keep with the key, as --meta of put has. Blank lines are passed
over. A line has 8 MiB at most; put takes larger values.

Every line is decided on its own, those with the same key in their order. Lines
that are not put are named on standard error with their number, and counted at the
end; --json writes one JSON object for every line instead, as soon as it and those
before it are decided.

A batch can be repeated: what is set already is "unchanged". A key that is set to
other bytes is a conflict and stays as it is. Exit codes: 4 after a conflict, even if
something else failed too; 5 if the outcome of some lines stays unknown, which
repeating the batch tells; 1 if lines are invalid or could not be put.`,
		Example: `  oncekv batch puts.ndjson
  jq -c '{key: .name, value: .text}' notes.json | oncekv batch --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.batch(cmd.Context(), b, strings.Join(args, ""), len(args) > 0)
		},
	}
	f := cmd.Flags()
	b.register(a, f, time.Minute)
	f.Lookup("timeout").Usage = "how long to keep trying while nothing is decided"
	a.jsonFlag(f)
	return cmd
}

func (a *app) batch(ctx context.Context, b *batchFlags, path string, given bool) error {
	if !given && !isPiped(a.stdin) {
		return usageErrorf("no lines: give a file, or - for standard input")
	}
	cl, err := b.client()
	if err != nil {
		return err
	}
	in, name := a.stdin, "standard input"
	if given && path != "-" {
		f, err := a.openPatiently(ctx, path, os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		defer f.Close()
		in, name = f, path
	}
	r := &batchRun{client: cl, in: in, name: name, out: a.batchOutput()}
	r.out.sum.kind = summaryKind{lines: true}
	r.out.bar = a.progress("batch", regularBytes(in))
	start := time.Now()
	err = r.run(ctx)
	r.out.bar.finish()
	sum := &r.out.sum
	sum.took = time.Since(start)
	verdict := sum.verdict(err)
	if a.json {
		return verdict
	}
	return errors.Join(told(sum.write(a.stdout, name)), verdict)
}

// regularBytes is what is left to read of a regular file, 0 for everything else.
func regularBytes(in io.Reader) int64 {
	f, ok := in.(*os.File)
	if !ok {
		return 0
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return 0
	}
	return sizeOf(f)
}
