package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
)

// benchFlags are the command line of a measurement.
type benchFlags struct {
	clientFlags
	mode        string
	duration    time.Duration
	connections int
	keys        int
	keySize     int
	valueSize   byteSize
	prefix      string
}

const (
	benchPut = "put"
	benchGet = "get"
)

func (a *app) benchCommand() *cobra.Command {
	b := &benchFlags{valueSize: 256}
	cmd := &cobra.Command{
		Use:       "bench [put|get]",
		Short:     "Measure puts or gets",
		ValidArgs: []string{benchPut, benchGet},
		Long: `Measure how many puts or gets are answered, and how fast. Each connection sends
its next request when the one before is answered, and stays with one endpoint;
connections are dealt out to the endpoints.

The keys that it sets stay set for ever: measure on a store that can be thrown
away. put sets new keys all the time; get sets --keys keys before the measurement,
then reads them at random.`,
		Example: `  oncekv bench put --connections 64 --duration 30s
  oncekv bench get --endpoints http://127.0.0.1:5551,http://127.0.0.1:5552 --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b.mode = strings.Join(args, "")
			return a.bench(cmd.Context(), b)
		},
	}
	f := cmd.Flags()
	b.register(f, 5*time.Second)
	a.jsonFlag(f)
	f.DurationVar(&b.duration, "duration", 10*time.Second, "how long to measure")
	f.IntVar(&b.connections, "connections", 16, "requests in flight")
	f.IntVar(&b.keys, "keys", 1000, "get: how many keys to read")
	f.IntVar(&b.keySize, "key-size", 32, "bytes of a key")
	f.Var(&b.valueSize, "value-size", "bytes of a value")
	f.StringVar(&b.prefix, "prefix", "bench/", "of all keys; a random part follows")
	return cmd
}

// Bounds of what a measurement may ask for.
const (
	benchConnectionsMax = 10_000
	benchKeysMax        = 10_000_000
	benchKeyTail        = 16 // characters of a key that make it unique
	benchValueMax       = 64 << 20
)

func (b *benchFlags) check() error {
	keyMin := len(b.prefix) + benchKeyTail
	switch {
	case b.mode == "":
		b.mode = benchPut
	case b.mode != benchPut && b.mode != benchGet:
		return usageErrorf("bench %q: measure put or get", b.mode)
	}
	switch {
	case b.duration <= 0:
		return usageErrorf("--duration must be above zero, such as 10s")
	case b.connections < 1 || b.connections > benchConnectionsMax:
		return usageErrorf("--connections must be 1 to %d", benchConnectionsMax)
	case b.keys < 1 || b.keys > benchKeysMax:
		return usageErrorf("--keys must be 1 to %d", benchKeysMax)
	case b.keySize < keyMin || b.keySize > 1024:
		return usageErrorf("--key-size must be %d (the prefix and %d more) to 1024", keyMin, benchKeyTail)
	case b.valueSize < 0 || b.valueSize > benchValueMax:
		return usageErrorf("--value-size must be 0 to %s", people(benchValueMax))
	}
	return nil
}

func (a *app) bench(ctx context.Context, b *benchFlags) error {
	if err := b.check(); err != nil {
		return err
	}
	if _, err := b.client(); err != nil { // of the endpoints
		return err
	}
	run, err := b.newRun()
	if err != nil {
		return err
	}
	if b.mode == benchGet {
		fmt.Fprintf(a.stderr, "setting %d keys\n", b.keys)
		if err := run.prepare(ctx); err != nil {
			return err
		}
	}
	result := run.measure(ctx)
	return errors.Join(a.showBench(result), result.verdict(ctx))
}

// benchRun is one measurement.
type benchRun struct {
	*benchFlags
	clients []*client.Client // one a connection
	tag     uint64           // makes the keys of this run unlike those of others
	value   []byte
}

func (b *benchFlags) newRun() (*benchRun, error) {
	r := &benchRun{benchFlags: b, tag: rand.Uint64(), value: make([]byte, b.valueSize)}
	for i := range r.value {
		r.value[i] = byte(rand.Uint32()) // nothing compresses it on the way
	}
	for i := range b.connections {
		c, err := client.New(client.Config{Endpoints: []string{b.endpoints[i%len(b.endpoints)]}, RetryTimeout: b.timeout})
		if err != nil {
			return nil, &usageError{err}
		}
		r.clients = append(r.clients, c)
	}
	return r, nil
}

// key is the n-th key of a connection.
func (r *benchRun) key(connection, n int) string {
	tail := fmt.Sprintf("%06x%02x%08x", r.tag&0xffffff, connection&0xff, n)
	if connection > 0xff { // such keys differ in the tag
		tail = fmt.Sprintf("%06x%02x%08x", (r.tag+uint64(connection>>8))&0xffffff, connection&0xff, n)
	}
	fill := r.keySize - len(r.prefix) - len(tail)
	return r.prefix + strings.Repeat("k", fill) + tail
}

// prepare sets the keys that are to be read.
func (r *benchRun) prepare(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var putters sync.WaitGroup
	for c := range r.clients {
		putters.Go(func() {
			for n := c; n < r.keys && ctx.Err() == nil; n += len(r.clients) {
				if _, err := r.clients[c].PutBytes(ctx, r.key(0, n), r.value, client.PutOptions{}); err != nil {
					cancel(err)
				}
			}
		})
	}
	putters.Wait()
	return context.Cause(ctx)
}

// benchResult is what --json shows.
type benchResult struct {
	Mode         string       `json:"mode"`
	Connections  int          `json:"connections"`
	KeyBytes     int          `json:"key_bytes"`
	ValueBytes   int64        `json:"value_bytes"`
	Seconds      float64      `json:"seconds"`
	Requests     uint64       `json:"requests"` // that were answered well
	Errors       uint64       `json:"errors"`
	PerSecond    float64      `json:"per_second"`
	Milliseconds benchLatency `json:"milliseconds"`

	firstError error
}

// benchLatency is in milliseconds, right to 1.6 %.
type benchLatency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// connectionResult is owned by its connection until that ends.
type connectionResult struct {
	times      histogram
	errors     uint64
	firstError error
}

// measure runs all connections until the time is over. What is in flight then
// is waited for and counts.
func (r *benchRun) measure(ctx context.Context) *benchResult {
	start := time.Now()
	end := start.Add(r.duration)
	results := make([]connectionResult, len(r.clients))
	var connections sync.WaitGroup
	for c := range r.clients {
		connections.Go(func() {
			for n := 0; ctx.Err() == nil && time.Now().Before(end); n++ {
				results[c].one(func() error { return r.request(ctx, c, n) })
			}
		})
	}
	connections.Wait()
	return r.sum(results, time.Since(start))
}

func (c *connectionResult) one(request func() error) {
	start := time.Now()
	if err := request(); err == nil {
		c.times.add(time.Since(start))
	} else if c.errors++; c.firstError == nil {
		c.firstError = err
	}
}

func (r *benchRun) request(ctx context.Context, connection, n int) error {
	c := r.clients[connection]
	if r.mode == benchPut {
		_, err := c.PutBytes(ctx, r.key(connection, n), r.value, client.PutOptions{})
		return err
	}
	obj, err := c.Get(ctx, r.key(0, rand.IntN(r.keys)), client.GetOptions{})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, obj.Body)
	return errors.Join(err, obj.Body.Close())
}

func (r *benchRun) sum(results []connectionResult, took time.Duration) *benchResult {
	var all histogram
	sum := &benchResult{Mode: r.mode, Connections: r.connections, KeyBytes: r.keySize, ValueBytes: int64(r.valueSize), Seconds: took.Seconds()}
	for i := range results {
		all.merge(&results[i].times)
		sum.Errors += results[i].errors
		if sum.firstError == nil {
			sum.firstError = results[i].firstError
		}
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	sum.Requests = all.count
	sum.PerSecond = float64(all.count) / took.Seconds()
	sum.Milliseconds = benchLatency{
		Mean: ms(all.mean()), P50: ms(all.percentile(50)), P90: ms(all.percentile(90)),
		P99: ms(all.percentile(99)), P999: ms(all.percentile(99.9)), Max: ms(all.max),
	}
	return sum
}

func (r *benchResult) verdict(ctx context.Context) error {
	if r.Errors > 0 && ctx.Err() == nil {
		return fmt.Errorf("%d requests failed; the first: %w", r.Errors, r.firstError)
	}
	return ctx.Err()
}

func (a *app) showBench(r *benchResult) error {
	if a.json {
		return writeJSON(a.stdout, r)
	}
	t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "MODE\tCONNECTIONS\tREQUESTS\tERRORS\tPER SECOND\tMEAN ms\tP50\tP90\tP99\tP99.9\tMAX\t")
	l := r.Milliseconds
	fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", r.Mode, r.Connections, r.Requests, r.Errors, r.PerSecond, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
	return t.Flush()
}
