package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/load"
	"github.com/Focinfi/oncekv/internal/load/goclient"
	"github.com/Focinfi/oncekv/internal/load/wire"
)

// benchRun is one benchmark.
type benchRun struct {
	*benchFlags
	app     *app
	targets []string
	work    *load.Workload
	reads   string // prefix; empty without reads
	writes  string // prefix; empty without puts
	callers []load.Caller
	allowed bool // keys may be set
}

// maySet says that keys will stay, and asks for confirmation if the store holds other keys.
func (r *benchRun) maySet(ctx context.Context, cl *client.Client) error {
	if r.allowed {
		return nil
	}
	other, err := othersKey(ctx, cl, r.prefix)
	if err != nil {
		return err
	}
	stay := fmt.Sprintf("The keys that bench sets, below %s, cannot be deleted.", shown(r.prefix))
	if other != "" {
		err := r.app.confirm(ctx, fmt.Sprintf("%s\nThis store has other keys, such as %s.", stay, shown(other)), "bench")
		if err != nil {
			return err
		}
	}
	r.allowed = true
	_, err = fmt.Fprintln(r.app.stderr, stay)
	return err
}

// othersKey returns a key that does not begin with prefix, "" if there is none.
func othersKey(ctx context.Context, cl *client.Client, prefix string) (string, error) {
	behind := prefix + strings.Repeat("\xff", max(0, benchKeySizeMax-len(prefix)))
	for _, after := range []string{"", behind} {
		for record, err := range cl.Keys(ctx, client.KeysOptions{After: after, PageLimit: 1}) {
			if err != nil {
				return "", err
			}
			key, err := record.RawKey()
			if err != nil || !strings.HasPrefix(key, prefix) {
				return key, err
			}
			break
		}
	}
	return "", nil
}

// newBenchRun prepares everything but the load.
func (a *app) newBenchRun(ctx context.Context, b *benchFlags, cl *client.Client) (*benchRun, error) {
	r := &benchRun{benchFlags: b, app: a, work: &load.Workload{Mix: b.mix, BatchKeys: b.batchKeys}}
	var err error
	if r.targets, err = b.targets(ctx, cl); err != nil {
		return nil, err
	}
	if r.work.Pick, err = load.ParsePicker(b.distribution, b.keys); err != nil {
		return nil, usageErrorf("--distribution: %w", err)
	}
	if b.mix.Has(load.Put) || b.mix.Has(load.Batch) {
		if err := r.maySet(ctx, cl); err != nil {
			return nil, err
		}
		r.writes = b.writePrefix()
		if r.work.Puts, err = b.data(r.writes); err != nil {
			return nil, &usageError{err}
		}
	}
	if b.mix.Has(load.Get) || b.mix.Has(load.Absent) {
		r.reads = b.readPrefix()
		if r.work.Reads, err = b.data(r.reads); err != nil {
			return nil, &usageError{err}
		}
	}
	if b.mix.Has(load.Get) {
		set := &dataSet{client: cl, data: r.work.Reads, prefix: r.reads, keys: b.keys, maySet: r.maySet}
		if err := set.load(ctx, a); err != nil {
			return nil, err
		}
	}
	return r, r.connect()
}

// connect makes the callers. Those through the Go client share one client a node, as the
// goroutines of a program do.
func (r *benchRun) connect() error {
	clients := map[string]*client.Client{}
	for i := range r.connections {
		url := r.targets[i%len(r.targets)]
		if !r.goClient {
			c, err := wire.New(url, r.timeout)
			if err != nil {
				return &usageError{err}
			}
			r.callers = append(r.callers, c)
			continue
		}
		if clients[url] == nil {
			c, err := client.New(client.Config{Endpoints: []string{url}, RetryTimeout: r.timeout})
			if err != nil {
				return &usageError{err}
			}
			clients[url] = c
		}
		r.callers = append(r.callers, goclient.New(clients[url]))
	}
	return nil
}

func (r *benchRun) measure(ctx context.Context) (*load.Result, error) {
	defer func() {
		for _, c := range r.callers {
			c.Close()
		}
	}()
	fmt.Fprintln(r.app.stderr, r.title())
	bar := r.app.steps("", r.steps())
	defer bar.finish()
	if r.warmup > 0 {
		bar.say("warm-up")
	}
	var shown time.Duration
	return load.Run(ctx, load.Config{
		Callers: r.callers, Next: r.work.Next, Seed: r.seed, Rate: r.rate,
		Duration: r.duration, Requests: r.requests, Warmup: r.warmup, Interval: r.interval,
		Progress: func(i load.Interval) {
			text := fmt.Sprintf("%.0f/s, p99 %s ms", i.PerSecond, milliseconds(i.Latency.P99))
			if i.Errors > 0 {
				text += fmt.Sprintf(", %d errors", i.Errors)
			}
			bar.say(text)
			if r.duration == 0 {
				bar.add(int64(i.Requests))
				return
			}
			at := min(time.Duration(i.Seconds*float64(time.Second)), r.duration)
			bar.add((at - shown).Milliseconds())
			shown = at
		},
	})
}

// steps returns what the progress bar counts: milliseconds or requests.
func (r *benchRun) steps() int64 {
	if r.duration > 0 {
		return r.duration.Milliseconds()
	}
	return int64(r.requests)
}

// title returns what is measured.
func (r *benchRun) title() string {
	text := r.mode
	if r.mode == benchMixed {
		text += " (" + r.mixText + ")"
	}
	loop := "closed loop"
	if r.rate > 0 {
		loop = fmt.Sprintf("open loop of %g requests per second", r.rate)
	}
	text += fmt.Sprintf(", %s, %s to %s", loop, count(r.connections, "connection"), count(len(r.targets), "node"))
	if r.goClient {
		text += ", Go client"
	}
	return text
}

// subtitle returns the conditions of the measurement.
func (r *benchRun) subtitle(result *load.Result) string {
	text := fmt.Sprintf("values of %s bytes, keys of %s", r.valueSize.String(), r.keySize.String())
	if r.work.Mix.Has(load.Get) {
		text += fmt.Sprintf(", %s of %d", r.distribution, r.keys)
	}
	return text + fmt.Sprintf("; %.0f requests per second, p99 %s ms, %d errors", result.PerSecond, milliseconds(result.Latency.P99), result.Errors)
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// verdict returns an error only if nothing was measured.
func (r *benchRun) verdict(result *load.Result) error {
	switch {
	case result.Requests > 0:
		return nil
	case result.Errors > 0:
		why := fmt.Errorf("all %d requests failed; the first: %s", result.Errors, result.ByError[0].First)
		return &client.RequestError{Op: "bench " + r.mode, Kind: why} // makes the command diagnose the cluster
	case result.Interrupted:
		return errors.New("interrupted before the first answer")
	}
	return fmt.Errorf("no request was answered in %.1f s; try a longer --duration", result.Seconds)
}
