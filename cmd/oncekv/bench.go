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

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/load"
)

// benchFlags are the flags of a benchmark.
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

  put     set new keys, one per request (the default)
  get     read keys that are set; missing ones are set first
  absent  read keys that are not set: a majority confirms each answer
  batch   set many new keys with each request, in a stream
  mixed   all of these, in the proportions of --mix

Closed loop (the default): each connection sends its next request when the previous
one is answered. This shows how much the cluster can do. During a stall nothing is
sent, so the latencies show less of it than users would see (coordinated omission).
Open loop (--rate): requests are due at fixed times, whatever happened to earlier
ones, and latency counts from then. This shows how long users wait, stalls included.
Use about half the rate that the closed loop reached. At most --connections requests
are in flight. Requests that were due but had no answer at the end are "unfinished";
the latency includes how long they had waited.

Each request is sent once. An answer such as 429 or 503 counts as an error, and
Retry-After is not followed, so that the cluster itself is measured. The latency
covers successful requests only. With --go-client, requests go through the Go client
as in a program, with its digests, and retries until --timeout; the latency then covers
all tries of a request. Values that are read are always compared.

Connections are spread over --endpoints. With --target the endpoints are only asked
which nodes have that role now, and those are measured.

Keys cannot be deleted: measure on a store that you can throw away. If the store has
other keys, bench asks before it sets its own; without a terminal it needs --yes.
put and batch set keys below a new --run each time and print it. get and absent use
keys that depend on --seed and the sizes, so that a second run finds them. The same
--seed and --run give the same keys and values.

Ctrl-C ends the measurement and shows the results so far. The exit code is 1 if
no request was answered.`,
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
	a.yesFlag(f, "setting keys in a store that has other keys")
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure")
	f.Uint64Var(&b.requests, "requests", 0, "how many requests to measure (default no limit); if --duration is not given, only this ends the measurement")
	f.DurationVar(&b.warmup, "warmup", 0, "how long to apply the load before measuring")
	f.DurationVar(&b.interval, "interval", time.Second, "interval of the time series in the results")
	f.IntVar(&b.connections, "connections", 64, "requests in flight, each on a connection of its own")
	f.Float64Var(&b.rate, "rate", 0, "open loop: requests per second (default a closed loop)")
	f.Uint64Var(&b.keys, "keys", 10_000, "get: how many keys to read from")
	f.Var(&b.keySize, "key-size", "bytes of a key: 32, 32-64 (uniform) or zipf:32-512 (mostly small)")
	f.Var(&b.valueSize, "value-size", "bytes of a value: 256, 64-4096 or zipf:64-64KiB")
	f.BoolVar(&b.ordered, "ordered", false, "set keys in ascending order instead of scattered")
	f.StringVar(&b.distribution, "distribution", "uniform", "get: how keys are chosen: uniform, zipf[:THETA] or sequential")
	f.IntVar(&b.batchKeys, "batch-keys", 100, "batch: keys per request")
	f.StringVar(&b.mixText, "mix", "get=90,put=10", "mixed: proportions of put, get, absent and batch")
	f.StringVar(&b.target, "target", "", "nodes to measure instead of the endpoints: leader, followers, databases or caches")
	f.Uint64Var(&b.seed, "seed", 1, "seed for keys, values and their order")
	f.StringVar(&b.prefix, "prefix", "bench/", "prefix of all keys")
	f.StringVar(&b.run, "run", "", "name of this run, which the keys have after the prefix (default a new one for puts)")
	f.BoolVar(&b.goClient, "go-client", false, "send requests through the Go client, with its digests and retries")
	f.StringVar(&b.svg, "svg", "", "file to write a chart of the results to")
	cmd.MarkFlagFilename("svg", "svg")
	complete := func(values ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)
	}
	cmd.RegisterFlagCompletionFunc("target", complete("leader", "followers", "databases", "caches"))
	cmd.RegisterFlagCompletionFunc("distribution", complete("uniform", "zipf:0.99", "sequential"))
	return cmd
}

// Limits of a benchmark.
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
		return usageErrorf("--value-size must be at most %s", humanBytes(benchValueMax))
	}
	least := load.KeySizeMin(b.readPrefix())
	if b.keySize.Min < least || b.keySize.Max > benchKeySizeMax {
		return usageErrorf("--key-size must be %d (%s and a number) to %d", least, b.readPrefix(), benchKeySizeMax)
	}
	return nil
}

// checkLoad decides what to send.
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
		return usageErrorf("unknown mode %q: use put, get, absent, batch or mixed", b.mode)
	}
	if _, err := load.ParsePicker(b.distribution, 1); err != nil {
		return usageErrorf("--distribution: %w", err)
	}
	switch b.target {
	case "", "leader", "followers", "databases", "caches":
		return nil
	}
	return usageErrorf("unknown --target %q: use leader, followers, databases or caches", b.target)
}

// readPrefix returns the prefix of the keys to read. It names everything on which their values
// depend.
func (b *benchFlags) readPrefix() string {
	name := b.run
	if name == "" {
		what := fmt.Sprintf("%d %d %s %s %t", load.DataVersion, b.seed, b.keySize.String(), b.valueSize.String(), b.ordered)
		name = fmt.Sprintf("%07x", xxhash.Sum64String(what)>>36)
	}
	return b.prefix + "d" + name + "/"
}

// writePrefix returns the prefix of the keys to put. It is new unless the run has a name.
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

// targets returns the nodes to load.
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
			if b.target == "databases" || (m.Role == api.RoleLeader) == (b.target == "leader") {
				urls = append(urls, m.ClientURL)
			}
		}
	}
	if len(urls) == 0 {
		return nil, fmt.Errorf("no node matches --target %s now; oncekv members and oncekv stats list the nodes", b.target)
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
	if err := cl.Ping(ctx); err != nil { // else every request would fail for all of --duration
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
