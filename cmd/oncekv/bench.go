package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/load"
)

// benchFlags are the command line of a measurement.
type benchFlags struct {
	clientFlags
	mode         string
	target       string
	duration     time.Duration
	requests     uint64
	warmup       time.Duration
	interval     time.Duration
	connections  int
	rate         float64
	keys         uint64
	keySize      load.Size
	valueSize    load.Size
	ordered      bool
	distribution string
	batchKeys    int
	mixText      string
	seed         uint64
	prefix       string
	run          string
	goClient     bool
	svg          string

	mix load.Mix // from mode and mixText
}

const benchMixed = "mixed"

func (a *app) benchCommand() *cobra.Command {
	b := &benchFlags{keySize: load.Fixed(32), valueSize: load.Fixed(256)}
	cmd := &cobra.Command{
		Use:       "bench [put|get|absent|batch|mixed]",
		Short:     "Measure how many requests are answered, and how fast",
		ValidArgs: []string{"put", "get", "absent", "batch", benchMixed},
		Long: `Measure how many requests are answered, and how fast.

  put     set one new key after the other (the default)
  get     read keys that are set; those that are missing are set first
  absent  read keys that are not set: each answer is confirmed by a majority
  batch   set many new keys with each request, in a stream
  mixed   all of these in the parts of --mix

Closed loop: each connection sends its next request when the one before is
answered. That shows how much the cluster can do. While it stands still nothing is
sent, so the latencies have less of the stall than users would (coordinated
omission). Open loop, --rate: requests are due at fixed times, whatever became of
those before, and their latency counts from then. That shows how long users wait,
stalls included. Take about half of what the closed loop reached. At most
--connections requests are in flight; "unfinished" were due and had no answer at
the end, and the latency has how long they had waited.

Each request is sent once, and an answer such as 429 or 503 is an error in the
table, with no pause for Retry-After: that is the cluster's measure. Latency is
that of good answers. With --go-client requests go through the Go client, as
programs send them, with its digests and retries until --timeout, and the latency
is that of all tries together. Values that are read are compared in any case.

--endpoints are dealt out to the connections. --target asks them for others: all
that have the role now.

Keys stay set for ever: measure on a store that can be thrown away. If the store has
other keys, bench asks before it sets its own; without a terminal it needs --yes.
put and batch set keys below a new --run each time, which is printed; get and absent
use keys that follow from --seed and the sizes, so that a second run finds them. The
same --seed and --run are the same keys and values.

Ctrl-C ends the measurement and shows what there is. The exit code is 1 if nothing
was answered.`,
		Example: `  oncekv bench put --connections 64 --duration 30s
  oncekv bench put --rate 2000 --duration 1m --warmup 5s --svg put.svg
  oncekv bench get --keys 1000000 --distribution zipf:0.99 --target caches
  oncekv bench batch --batch-keys 1000 --value-size 64-4096 --requests 500
  oncekv bench mixed --mix get=90,absent=5,put=5 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.mode = strings.Join(args, "")
			if b.requests > 0 && !cmd.Flags().Changed("duration") {
				b.duration = 0
			}
			return a.bench(cmd.Context(), b)
		},
	}
	f := cmd.Flags()
	b.register(a, f, 5*time.Second)
	a.jsonFlag(f)
	a.yesFlag(f, "keys are set beside those of others")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure")
	f.Uint64Var(&b.requests, "requests", 0, "how many requests to measure (default no limit; without --duration, the only end)")
	f.DurationVar(&b.warmup, "warmup", 0, "the same load before the measurement")
	f.DurationVar(&b.interval, "interval", time.Second, "time between figures over time")
	f.IntVar(&b.connections, "connections", 64, "requests in flight, each on a connection of its own")
	f.Float64Var(&b.rate, "rate", 0, "open loop: requests that are due in a second (default a closed loop)")
	f.Uint64Var(&b.keys, "keys", 10_000, "get: how many keys to read from")
	f.Var(&b.keySize, "key-size", "bytes of a key, like 32 or 32-64 (evenly) or zipf:32-512 (small ones often)")
	f.Var(&b.valueSize, "value-size", "bytes of a value, like 256, 64-4096 or zipf:64-64KiB")
	f.BoolVar(&b.ordered, "ordered", false, "put and load keys in their order, not scattered")
	f.StringVar(&b.distribution, "distribution", "uniform", "get: which keys: uniform, zipf[:THETA] or sequential")
	f.IntVar(&b.batchKeys, "batch-keys", 100, "batch: keys in a request")
	f.StringVar(&b.mixText, "mix", "get=90,put=10", "mixed: parts of put, get, absent and batch")
	f.StringVar(&b.target, "target", "", "nodes to load instead of the endpoints: leader, followers, databases or caches")
	f.Uint64Var(&b.seed, "seed", 1, "of keys, values and their order")
	f.StringVar(&b.prefix, "prefix", "bench/", "of all keys")
	f.StringVar(&b.run, "run", "", "name of the keys below the prefix (default a new one for puts)")
	f.BoolVar(&b.goClient, "go-client", false, "send through the Go client, with its digests and retries")
	f.StringVar(&b.svg, "svg", "", "file to draw the result into")
	cmd.MarkFlagFilename("svg", "svg")
	complete := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	cmd.RegisterFlagCompletionFunc("target", complete("leader", "followers", "databases", "caches"))
	cmd.RegisterFlagCompletionFunc("distribution", complete("uniform", "zipf:0.99", "sequential"))
	return cmd
}

// Bounds of what a measurement may ask for.
const (
	benchConnectionsMax = 10_000
	benchKeysMax        = 1_000_000_000
	benchBatchMax       = 100_000
	benchValueMax       = 64 << 20
	benchRateMax        = 10_000_000
	benchKeySizeMax     = 1024
)

func (b *benchFlags) check() error {
	if err := b.checkLoad(); err != nil {
		return err
	}
	switch {
	case b.duration < 0, b.duration == 0 && b.requests == 0:
		return usageErrorf("--duration must be above zero, such as 10s")
	case b.warmup < 0:
		return usageErrorf("--warmup must not be negative")
	case b.interval < 10*time.Millisecond:
		return usageErrorf("--interval must be 10ms or more")
	case b.connections < 1 || b.connections > benchConnectionsMax:
		return usageErrorf("--connections must be 1 to %d", benchConnectionsMax)
	case b.rate < 0 || b.rate > benchRateMax || math.IsNaN(b.rate):
		return usageErrorf("--rate must be above 0, up to %d", benchRateMax)
	case b.keys < 1 || b.keys > benchKeysMax:
		return usageErrorf("--keys must be 1 to %d", benchKeysMax)
	case b.batchKeys < 1 || b.batchKeys > benchBatchMax:
		return usageErrorf("--batch-keys must be 1 to %d", benchBatchMax)
	case b.valueSize.Max > benchValueMax:
		return usageErrorf("--value-size must be at most %s", people(benchValueMax))
	}
	least := load.KeySizeMin(b.readPrefix())
	if b.keySize.Min < least || b.keySize.Max > benchKeySizeMax {
		return usageErrorf("--key-size must be %d (%s and a number) to %d", least, b.readPrefix(), benchKeySizeMax)
	}
	return nil
}

// checkLoad finds out what to send.
func (b *benchFlags) checkLoad() error {
	text := b.mode + "=1"
	switch b.mode {
	case "":
		b.mode, text = load.Put.String(), "put=1"
	case benchMixed:
		text = b.mixText
	}
	var err error
	if b.mix, err = load.ParseMix(text); err != nil && b.mode == benchMixed {
		return usageErrorf("--mix: %w", err)
	} else if err != nil {
		return usageErrorf("bench %q: measure put, get, absent, batch or mixed", b.mode)
	}
	if _, err := load.ParsePicker(b.distribution, 1); err != nil {
		return usageErrorf("--distribution: %w", err)
	}
	switch b.target {
	case "", "leader", "followers", "databases", "caches":
		return nil
	}
	return usageErrorf("--target %q: take leader, followers, databases or caches", b.target)
}

// readPrefix is that of the keys that are read. Its name follows from what their
// values follow from.
func (b *benchFlags) readPrefix() string {
	name := b.run
	if name == "" {
		what := fmt.Sprintf("%d %d %s %s %t", load.DataVersion, b.seed, b.keySize.String(), b.valueSize.String(), b.ordered)
		name = fmt.Sprintf("%07x", xxhash.Sum64String(what)>>36)
	}
	return b.prefix + "d" + name + "/"
}

// writePrefix is that of the keys that are put: a new one, unless it has a name.
func (b *benchFlags) writePrefix() string {
	name := b.run
	if name == "" {
		name = fmt.Sprintf("%07x", rand.Uint32()>>4)
	}
	return b.prefix + "p" + name + "/"
}

func (b *benchFlags) data(prefix string) (*load.Data, error) {
	return load.NewData(load.DataConfig{Prefix: prefix, Seed: b.seed, KeySize: b.keySize, ValueSize: b.valueSize, Ordered: b.ordered})
}

// targets are the nodes to load.
func (b *benchFlags) targets(ctx context.Context, cl *client.Client) ([]string, error) {
	if b.target == "" {
		return b.endpoints, nil
	}
	var urls []string
	if b.target == "caches" {
		caches, err := cl.Caches(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range caches {
			urls = append(urls, c.URL)
		}
	} else {
		members, err := cl.Members(ctx)
		if err != nil {
			return nil, err
		}
		for _, m := range members.Members {
			if b.target == "databases" || (m.Role == client.RoleLeader) == (b.target == "leader") {
				urls = append(urls, m.ClientURL)
			}
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("there is none of --target %s now; oncekv members and oncekv stats show what there is", b.target)
	}
	return urls, nil
}

func (a *app) bench(ctx context.Context, b *benchFlags) error {
	if err := b.check(); err != nil {
		return err
	}
	cl, err := b.client()
	if err != nil {
		return err
	}
	if b.svg != "" { // not only after the measurement
		if _, err := os.Stat(filepath.Dir(b.svg)); err != nil {
			return usageErrorf("--svg: %w", err)
		}
	}
	if err := cl.Ping(ctx); err != nil { // else all requests would fail for --duration
		return err
	}
	run, err := a.newBenchRun(ctx, b, cl)
	if err != nil {
		return err
	}
	result, err := run.measure(ctx)
	if err != nil {
		return err
	}
	return errors.Join(a.showBench(run, result), drawBench(ctx, b.svg, run, result), run.verdict(result))
}

func drawBench(ctx context.Context, file string, run *benchRun, result *load.Result) error {
	if file == "" {
		return nil
	}
	var picture bytes.Buffer
	err := result.WriteSVG(&picture, run.title(), run.subtitle(result))
	if err == nil {
		err = run.app.writeFile(context.WithoutCancel(ctx), file, &picture)
	}
	if err != nil {
		return fmt.Errorf("--svg: %w", err)
	}
	return nil
}
