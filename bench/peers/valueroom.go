package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// same puts the same large value under many keys.
func (v *values) same(ctx context.Context) error {
	before, err := v.stored()
	if err != nil {
		return err
	}
	_, value := v.fresh(int64(v.Values.Large))
	var took []float64
	for n := range v.Values.Keys {
		url, err := v.leader(ctx)
		if err != nil {
			return err
		}
		start := time.Now()
		if err := v.put(ctx, url, fmt.Sprintf("same/%d", n), value); err != nil {
			return err
		}
		took = append(took, time.Since(start).Seconds())
		say("key %d of %d took %.2f s\n", n+1, v.Values.Keys, took[n])
	}
	if err := v.rest(ctx); err != nil {
		return err
	}
	after, err := v.stored()
	if err != nil {
		return err
	}
	most := int64(0)
	for i := range after {
		most = max(most, after[i]-before[i])
	}
	name := fmt.Sprintf("the same %s under %d keys", sized(value.size), v.Values.Keys)
	v.figure(name+": room of a node ÷ of the value", atMost(1.1), float64(most)/float64(value.size))
	v.figure(name+": the first PUT, s", finding{}, took[0])
	v.figure(name+": another one, s", finding{}, took[1:]...)
	return nil
}

// stored returns the room that each database node's data takes without its log.
func (v *values) stored() ([]int64, error) {
	var all []int64
	for _, p := range v.databases() {
		n, err := storedBytes(filepath.Join(v.sys.dir, p.name))
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// valuesDir is where a node keeps large values.
const valuesDir = "values"

// room returns the room that each database node's large values take. For a version without
// files for them, it is all of the data without the log.
func (v *values) room() ([]int64, error) {
	var all []int64
	for _, p := range v.databases() {
		n, err := storedBytes(filepath.Join(v.sys.dir, p.name, valuesDir))
		if errors.Is(err, fs.ErrNotExist) {
			return v.stored()
		}
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// How uploads fail: half of the bytes are abandoned, and half are losers, whose key gets
// another value.
const (
	deadAtATime = 2           // uploads of each kind at a time
	deadSteps   = 4           // rounds of uploads
	deadWithin  = time.Minute // limit until the room is reclaimed
	deadSlack   = 1 << 20     // allowance for tables and blocks
)

// dead makes uploads fail, and waits for the room that they took.
func (v *values) dead(ctx context.Context) error {
	var alone, with latencies
	var ratios, back, left []float64
	peak := 0.0
	for range v.Values.Rounds {
		without, err := v.quiet(ctx)
		if err != nil {
			return err
		}
		if err := v.rest(ctx); err != nil {
			return err
		}
		before, err := v.room()
		if err != nil {
			return err
		}
		won, err := v.waste(ctx)
		if err != nil {
			return err
		}
		full, err := v.room()
		if err != nil {
			return err
		}
		peak = max(peak, grown(before, full))
		var took time.Duration
		during, err := v.small(ctx, func(ctx context.Context) (err error) {
			took, err = v.reclaimed(ctx, before, won)
			return err
		})
		if err != nil {
			return err
		}
		now, err := v.room()
		if err != nil {
			return err
		}
		alone.add(without)
		with.add(during)
		ratios, back = append(ratios, during.P99/without.P99), append(back, took.Seconds())
		left = append(left, (grown(before, now)-float64(won))/float64(v.Values.DeadBytes))
	}
	name := fmt.Sprintf("%s of uploads that come to nothing", sized(int64(v.Values.DeadBytes)))
	v.figure(name+": room of a node meanwhile, MB", finding{}, peak/1e6)
	v.figure(name+": room is back after, s", atMost(deadWithin.Seconds()), back...)
	v.figure(name+": room of a node then that no value needs ÷ of these bytes", finding{}, left...)
	v.latencies("small puts before", alone, finding{})
	v.latencies("small puts while room comes back", with, finding{})
	v.figure("small puts: p99 while room comes back ÷ before", atMost(2), ratios...)
	return v.agree(ctx)
}

// grown returns by how much the largest node has grown.
func grown(before, after []int64) float64 {
	most := math.Inf(-1)
	for i := range after {
		most = max(most, float64(after[i]-before[i]))
	}
	return most
}

// waste makes uploads fail, and returns the bytes of the values that won.
func (v *values) waste(ctx context.Context) (won int64, err error) {
	size := int64(v.Values.DeadBytes) / (2 * deadAtATime * deadSteps)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range deadSteps {
		var uploads sync.WaitGroup
		for i := range deadAtATime {
			uploads.Go(func() {
				if err := v.abandon(ctx, v.sys.oncekv.urls[i], 2*size); err != nil {
					cancel(err)
				}
			})
			key, one := v.fresh(size)
			_, other := v.fresh(size)
			for j, value := range []*content{one, other} {
				uploads.Go(func() {
					status, err := v.putDecided(ctx, v.sys.oncekv.urls[(i+j)%nodes], key, value)
					if err == nil && status != http.StatusCreated && status != http.StatusConflict {
						err = fmt.Errorf("one of two values of a key was answered %d", status)
					}
					if err != nil {
						cancel(err)
					}
				})
			}
			won += size
		}
		uploads.Wait()
	}
	return won, context.Cause(ctx)
}

// errEnough ends an upload in the middle.
var errEnough = errors.New("the client goes away")

// abandon sends half of a value and closes the connection.
func (v *values) abandon(ctx context.Context, url string, size int64) error {
	key, value := v.fresh(size)
	half := io.MultiReader(io.LimitReader(value, size/2), failing{errEnough})
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url+"/key/"+key, half)
	if err != nil {
		return err
	}
	req.ContentLength = size
	resp, err := v.http.Do(req)
	switch {
	case errors.Is(err, errEnough):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(fmt.Errorf("half of a value was answered %s", resp.Status), resp.Body.Close())
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// reclaimed waits until no node has more room than before plus that of the winners, and
// returns how long it took. It waits for at most 1.5 times the limit, and continues while
// small puts are to be measured.
func (v *values) reclaimed(ctx context.Context, before []int64, won int64) (took time.Duration, err error) {
	start := time.Now()
	for {
		now, err := v.room()
		if err != nil {
			return 0, err
		}
		back := grown(before, now) <= 1.05*float64(won)+deadSlack
		if took = time.Since(start); back || took > deadWithin*3/2 {
			say("room back: %v; before %d, now %d, of these won %d bytes\n", back, before, now, won)
			break
		}
		if err := errors.Join(v.sys.ended(), pass(ctx, 200*time.Millisecond)); err != nil {
			return 0, err
		}
	}
	return took, pass(ctx, max(0, v.Values.Beside-time.Since(start)))
}

// roomStats is what a node reports about its room.
type roomStats struct {
	Values *struct {
		Live int64 `json:"live_bytes"`
		Dead int64 `json:"dead_bytes"`
	} `json:"values"`
}

// agree compares what nodes report with what their files take.
func (v *values) agree(ctx context.Context) error {
	if err := v.rest(ctx); err != nil {
		return err
	}
	room, err := v.room()
	if err != nil {
		return err
	}
	var off []float64
	for i, url := range v.sys.oncekv.urls {
		text, err := fetch(ctx, url+"/stats")
		if err != nil {
			return err
		}
		var s roomStats
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		if s.Values == nil {
			say("left out: this version does not say what is live and dead\n")
			return nil
		}
		say("%s has %d bytes live and %d dead, and its files take %d\n", url, s.Values.Live, s.Values.Dead, room[i])
		off = append(off, math.Abs(float64(s.Values.Live+s.Values.Dead)/float64(room[i])-1))
	}
	v.figure("live and dead bytes of /stats are off from the room of the files by", atMost(0.05), off...)
	return nil
}

// logRoom returns the room of a node's log; segments come and go meanwhile.
func logRoom(dir string) int64 {
	names, _ := filepath.Glob(filepath.Join(dir, walDir, "*"))
	var all int64
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			all += blocksOf(info)
		}
	}
	return all
}
