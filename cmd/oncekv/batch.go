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

// batchFlags are the flags of a batch.
type batchFlags struct {
	clientFlags
}

func (a *app) batchCommand() *cobra.Command {
	b := &batchFlags{}
	cmd := &cobra.Command{
		Use:   "batch [FILE|-]",
		Short: "Set many keys, one per line of JSON",
		Long: `Set one key for each line of FILE or standard input. A line is a JSON object:

  {"key":"greeting","value":"hello"}
  {"key_base64":"/w==","value":"3q2+7w==","encoding":"base64","content_type":"image/png"}
  {"key":"app/v2","value":"…","meta":{"commit":"9f2c1d0"}}

Use "key_base64" for keys that are not UTF-8 and "encoding":"base64" for values that
are not. The content type is text/plain; charset=utf-8 unless the line has one. "meta"
holds names and values to keep with the key, like --meta of put. Blank lines are
skipped. A line may have up to 8 MiB; for larger values use put.

Each line is decided on its own; lines with the same key are decided in order. Lines
that were not put are reported on standard error with their number, and counted at
the end. --json writes one JSON object per line instead, as soon as that line and all
lines before it are decided.

A batch can be repeated: keys that are set already are "unchanged". A key that is set
to other bytes is a conflict and stays as it is. Exit codes: 4 if there was a conflict,
even if something else failed too; 5 if the outcome of some lines is unknown (repeat the
batch to find out); 1 if lines were invalid or could not be put.`,
		Example: `  oncekv batch puts.ndjson
  jq -c '{key: .name, value: .text}' notes.json | oncekv batch --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.batch(cmd.Context(), b, strings.Join(args, ""), len(args) > 0)
		},
	}
	f := cmd.Flags()
	b.register(a, f, time.Minute)
	f.Lookup("timeout").Usage = "how long to keep trying without any result"
	a.jsonFlag(f)
	return cmd
}

func (a *app) batch(ctx context.Context, b *batchFlags, path string, given bool) error {
	if !given && !isPiped(a.stdin) {
		return usageErrorf("no input: give a file, or - for standard input")
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
	defer cl.Close() // ends the stream at the node
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
	return errors.Join(withoutReaderGone(sum.write(a.stdout, name)), verdict)
}

// regularBytes returns how much of a regular file is left to read, 0 for anything else.
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
