package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
)

// valueSettings are the flags of the part about large values.
type valueSettings struct {
	Cases     []string      `json:"cases"`
	Rounds    int           `json:"rounds"`
	Gets      int           `json:"gets"`
	Sizes     byteCounts    `json:"sizes"`
	Total     byteCount     `json:"total"`
	PutsMax   int           `json:"puts_max"`
	Large     byteCount     `json:"large"`
	GetBytes  byteCount     `json:"get_bytes"`
	Keys      int           `json:"keys"`
	DeadBytes byteCount     `json:"dead_bytes"`
	Away      byteCount     `json:"away"`
	Kills     int           `json:"kills"`
	Beside    time.Duration `json:"beside_ns"`
}

// valueCase is one case of this part.
type valueCase struct {
	name  string
	run   func(*values, context.Context) error
	serve []string // flags of database nodes
}

// valueCases are all cases in their order. Each has its own cluster.
var valueCases = []valueCase{
	{name: "writes", run: (*values).writes},
	{name: "trace", run: (*values).trace},
	{name: "put", run: (*values).putAlone},
	{name: "beside", run: (*values).beside},
	{name: "get", run: (*values).getBeside},
	{name: "same", run: (*values).same},
	{name: "dead", run: (*values).dead},
	{name: "away", run: (*values).away, serve: []string{"--snapshot-log-bytes", "1MiB"}},
}

func (s *valueSettings) flags(f *flag.FlagSet) {
	*s = valueSettings{
		Sizes: byteCounts{1 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10, 1 << 20, 192 << 20},
		Total: 128 << 20, Large: 1 << 30, GetBytes: 64 << 20, DeadBytes: 1 << 30, Away: 2 << 30,
	}
	f.Func("value-cases", "cases of large values, with commas between; empty: all", func(text string) error {
		s.Cases = list(text)
		return nil
	})
	f.IntVar(&s.Rounds, "value-rounds", 3, "how often each case of large values is measured")
	f.IntVar(&s.Gets, "value-gets", 9, "how often a value is read")
	f.Var(&s.Sizes, "value-sizes", "sizes of values whose written bytes are counted, with commas between")
	f.Var(&s.Total, "value-total", "bytes of the values of one size")
	f.IntVar(&s.PutsMax, "value-puts", 16_384, "values of one size at most; a 32nd of it one at a time")
	f.Var(&s.Large, "value-large", "bytes of the large value that is put, alone, beside small ones, and under many keys")
	f.Var(&s.GetBytes, "value-get", "bytes of the value that is read")
	f.IntVar(&s.Keys, "value-keys", 10, "keys that get the same value")
	f.Var(&s.DeadBytes, "value-dead", "bytes of uploads that come to nothing")
	f.Var(&s.Away, "value-away", "bytes that are put while a node is away")
	f.IntVar(&s.Kills, "value-kills", 6, "how often a node is killed while one catches up")
	f.DurationVar(&s.Beside, "value-beside", 15*time.Second, "how long small puts are measured at least")
}

func (s *valueSettings) check() error {
	if s.Rounds < 1 || s.Gets < 1 || s.Keys < 2 || s.PutsMax < 64 || s.Kills < 0 || s.Beside <= 0 || min(s.Total, s.Large, s.GetBytes, s.DeadBytes, s.Away) < 1<<20 {
		return errors.New("-value-rounds and -value-gets must be at least 1, -value-keys 2, -value-puts 64, -value-kills not below 0, -value-beside above 0, and bytes of values 1MiB")
	}
	for _, name := range s.Cases {
		if !slices.ContainsFunc(valueCases, func(c valueCase) bool { return c.name == name }) {
			return fmt.Errorf("-value-cases: there is no case %q", name)
		}
	}
	return nil
}

// byteCount is a number of bytes as a flag: 64KiB.
type byteCount int64

func (n *byteCount) Set(text string) error {
	var s load.Size
	if err := s.Set(text); err != nil {
		return err
	}
	if s.Min != s.Max {
		return fmt.Errorf("%q is a range, and not a number of bytes", text)
	}
	*n = byteCount(s.Min)
	return nil
}

// String writes the number for people, such that Set reads it again.
func (n *byteCount) String() string { return sized(int64(*n)) }

func sized(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return fmt.Sprintf("%d %s", n/unit.bytes, unit.name)
		}
	}
	return fmt.Sprint(n)
}

// byteCounts is a list of byteCount as a flag.
type byteCounts []byteCount

func (all *byteCounts) Set(text string) error {
	*all = nil
	for _, one := range strings.Split(text, ",") {
		var n byteCount
		if err := n.Set(one); err != nil {
			return err
		}
		*all = append(*all, n)
	}
	return nil
}

// String writes the numbers such that Set reads them again.
func (all *byteCounts) String() string {
	var texts []string
	for _, n := range *all {
		texts = append(texts, n.String())
	}
	return strings.Join(texts, ",")
}

// valuesPart measures large values, and what they cost small ones.
func (b *bench) valuesPart(ctx context.Context) error {
	if !slices.Contains(b.Systems, "oncekv") {
		return nil
	}
	v := &values{bench: b, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * inFlight, DisableCompression: true, WriteBufferSize: 256 << 10, ReadBufferSize: 256 << 10}}, noise: newNoise()}
	defer v.http.CloseIdleConnections()
	for _, c := range valueCases {
		if len(b.Values.Cases) > 0 && !slices.Contains(b.Values.Cases, c.name) {
			continue
		}
		err := b.with(ctx, lineup{systems: []string{"oncekv"}, serve: c.serve}, func(ctx context.Context) error { return v.measure(ctx, c) })
		if err != nil {
			return fmt.Errorf("values, %s: %w", c.name, err)
		}
	}
	return nil
}

// values is this part under way.
type values struct {
	*bench
	http  *http.Client
	noise []byte
	next  atomic.Uint64 // number of the next key and content
	sys   *system       // system of the case
}

func (v *values) measure(ctx context.Context, c valueCase) error {
	v.sys = v.systems[0]
	v.http.CloseIdleConnections()
	if _, err := v.settled(ctx, v.sys); err != nil {
		return err
	}
	return errors.Join(c.run(v, ctx), v.sys.ended())
}

// figure adds a finding, and reports it.
func (v *values) figure(name string, f finding, rounds ...float64) {
	f.Name, f.Rounds = name, rounds
	say("%s: %s\n", name, short(median(rounds)))
	v.report.found(f)
}

// databases returns the processes of the database nodes.
func (v *values) databases() []*process { return v.sys.nodes[:nodes] }

// fresh returns a new key and a new value.
func (v *values) fresh(size int64) (key string, value *content) {
	n := v.next.Add(1)
	return fmt.Sprintf("value/%d", n), &content{seed: n, size: size, noise: v.noise}
}

// leader returns the URL of the leader.
func (v *values) leader(ctx context.Context) (string, error) {
	m, err := v.sys.oncekv.member(ctx, true)
	return m.ClientURL, err
}

// putTries is how often a put is tried: the node may be busy, or may not know the outcome.
const putTries = 600

// put sets a key, and expects it to be new.
func (v *values) put(ctx context.Context, url, key string, value *content) error {
	status, err := v.putDecided(ctx, url, key, value)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("a put of %s was answered %d", sized(value.size), status)
	}
	return err
}

// putDecided puts until the outcome is known: 201, or another value was first.
func (v *values) putDecided(ctx context.Context, url, key string, value *content) (status int, err error) {
	for try := 1; ; try++ {
		status, err := v.putOnce(ctx, url, key, value)
		switch {
		case err != nil:
			return status, err
		case status == http.StatusOK && try > 1: // the previous try set it
			return http.StatusCreated, nil
		case status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout, try == putTries:
			return status, nil
		}
		say("a put of %s was answered %d\n", sized(value.size), status)
		if err := pass(ctx, 100*time.Millisecond); err != nil {
			return status, err
		}
	}
}

func (v *values) putOnce(ctx context.Context, url, key string, value *content) (status int, err error) {
	body := value.again()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/key/"+key, body)
	if err != nil {
		return 0, err
	}
	req.ContentLength = value.size
	req.GetBody = body.body
	resp, err := v.http.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, drained(resp)
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// inFlight is how many puts are made at the same time, unless it is one.
const inFlight = 64

// putMany puts values of one size, atATime at a time, through all nodes.
func (v *values) putMany(ctx context.Context, size int64, count, atATime int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left := numbers{end: int64(count)}
	var workers sync.WaitGroup
	for i := range min(atATime, count) {
		workers.Go(func() {
			for from, to := left.take(1); from < to && ctx.Err() == nil; from, to = left.take(1) {
				key, value := v.fresh(size)
				if err := v.put(ctx, v.sys.oncekv.urls[i%nodes], key, value); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
