package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/internal/load"
	"github.com/Focinfi/oncekv/internal/load/wire"
)

// How much of dd's rate a large put must reach, alone and beside small ones.
const (
	ofDDAlone  = 0.7
	ofDDBeside = 0.35
)

// putAlone puts a large value, and makes dd write as much as all nodes write.
func (v *values) putAlone(ctx context.Context) error {
	var puts, dds, ratios []float64
	for range v.Values.Rounds {
		dd, err := v.dd(ctx)
		if err != nil {
			return err
		}
		put, err := v.putLarge(ctx)
		if err != nil {
			return err
		}
		puts, dds, ratios = append(puts, put), append(dds, dd), append(ratios, dd/put)
		if err := v.rest(ctx); err != nil {
			return err
		}
	}
	v.figure(v.ddName()+", s", finding{}, dds...)
	v.figure(fmt.Sprintf("PUT of %s, s", sized(int64(v.Values.Large))), finding{}, puts...)
	v.figure(fmt.Sprintf("PUT of %s ÷ %s, rates", sized(int64(v.Values.Large)), v.ddName()), atLeast(ofDDAlone), ratios...)
	return nil
}

func (v *values) ddName() string {
	return fmt.Sprintf("dd conv=fsync of %s", sized(nodes*int64(v.Values.Large)))
}

// dd returns the time of dd in seconds.
func (v *values) dd(ctx context.Context) (float64, error) {
	file := filepath.Join(v.work, "dd")
	cmd := exec.CommandContext(ctx, "dd", "if=/dev/zero", "of="+file, "bs=1M", fmt.Sprintf("count=%d", nodes*int64(v.Values.Large)>>20), "conv=fsync")
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start).Seconds()
	if err != nil {
		return 0, fmt.Errorf("dd: %w\n%s", err, out)
	}
	err = os.Remove(file)
	syscall.Sync()
	return took, err
}

// putLarge returns the time of a put of the large value at the leader in seconds.
func (v *values) putLarge(ctx context.Context) (float64, error) {
	url, err := v.leader(ctx)
	if err != nil {
		return 0, err
	}
	key, value := v.fresh(int64(v.Values.Large))
	start := time.Now()
	err = v.put(ctx, url, key, value)
	took := time.Since(start).Seconds()
	say("a put of %s took %.2f s\n", sized(value.size), took)
	return took, err
}

// Small puts, which must not notice other work.
const (
	smallClients   = 4
	smallPerSecond = 50 // puts of each client
	smallInFlight  = 16 // puts of each client, which does not wait for the one before
	smallBytes     = 1 << 10
)

// small puts small values at fixed times, through all nodes in turn, until meanwhile returns.
// Latencies count from when a put was due.
func (v *values) small(ctx context.Context, meanwhile func(context.Context) error) (load.Latency, error) {
	data, err := load.NewData(load.DataConfig{Prefix: fmt.Sprintf("small/%d/", v.next.Add(1)), Seed: v.next.Add(1), KeySize: load.Fixed(keyBytes), ValueSize: load.Fixed(smallBytes)})
	if err != nil {
		return load.Latency{}, err
	}
	cfg := load.Config{Rate: smallClients * smallPerSecond, Duration: v.Timeout, Next: (&load.Workload{Mix: load.Only(load.Put), Puts: data}).Next}
	for i := range smallClients * smallInFlight {
		c, err := wire.New(v.sys.oncekv.urls[i%nodes], answerLimit)
		if err != nil {
			return load.Latency{}, err
		}
		defer c.Close()
		cfg.Callers = append(cfg.Callers, c)
	}
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var r *load.Result
	var failed error
	var running sync.WaitGroup
	running.Go(func() { r, failed = load.Run(loading, cfg) })
	err = meanwhile(ctx)
	stop()
	running.Wait()
	if err := errors.Join(err, failed, context.Cause(ctx)); err != nil {
		return load.Latency{}, err
	}
	if r.Errors > 0 {
		return r.Latency, fmt.Errorf("%d of %d small puts failed: %s", r.Errors, r.Requests, r.ByError[0].First)
	}
	say("small puts: %d, p50 %.1f ms, p99 %.1f, worst %.1f\n", r.Requests, r.Latency.P50, r.Latency.P99, r.Latency.Max)
	return r.Latency, nil
}

// quiet measures small puts alone.
func (v *values) quiet(ctx context.Context) (load.Latency, error) {
	if err := v.rest(ctx); err != nil {
		return load.Latency{}, err
	}
	return v.small(ctx, func(ctx context.Context) error { return pass(ctx, v.Values.Beside) })
}

// latencies holds the latencies of all rounds.
type latencies struct{ p50, p99, worst []float64 }

func (l *latencies) add(of load.Latency) {
	l.p50, l.p99, l.worst = append(l.p50, of.P50), append(l.p99, of.P99), append(l.worst, of.Max)
}

// latencies reports them; worst is the aim of the longest, if there is one.
func (v *values) latencies(name string, l latencies, worst finding) {
	v.figure(name+": p50, ms", finding{}, l.p50...)
	v.figure(name+": p99, ms", finding{}, l.p99...)
	v.figure(name+": worst, ms", worst, l.worst...)
}

// beside puts small values with and without a large put.
func (v *values) beside(ctx context.Context) error {
	var alone, with latencies
	var ratios, large, ofDD []float64
	for range v.Values.Rounds {
		dd, err := v.dd(ctx)
		if err != nil {
			return err
		}
		without, err := v.quiet(ctx)
		if err != nil {
			return err
		}
		if err := v.rest(ctx); err != nil {
			return err
		}
		var took []float64
		during, err := v.small(ctx, func(ctx context.Context) error {
			for end := time.Now().Add(v.Values.Beside); len(took) == 0 || time.Now().Before(end); {
				seconds, err := v.putLarge(ctx)
				if err != nil {
					return err
				}
				took = append(took, seconds)
			}
			return nil
		})
		if err != nil {
			return err
		}
		alone.add(without)
		with.add(during)
		ratios, large, ofDD = append(ratios, during.P99/without.P99), append(large, median(took)), append(ofDD, dd/median(took))
	}
	name := fmt.Sprintf("%d small puts a second", smallClients*smallPerSecond)
	large1 := sized(int64(v.Values.Large))
	v.latencies(name, alone, finding{})
	v.latencies(name+" beside a PUT of "+large1, with, atMost(100))
	v.figure(name+": p99 beside a PUT of "+large1+" ÷ without", atMost(5), ratios...)
	v.figure("PUT of "+large1+" beside small puts, s", finding{}, large...)
	v.figure("PUT of "+large1+" beside small puts ÷ "+v.ddName()+", rates", atLeast(ofDDBeside), ofDD...)
	return nil
}

// getBeside reads a value from nodes, and the same from nginx.
func (v *values) getBeside(ctx context.Context) error {
	path, err := exec.LookPath("nginx")
	if err != nil {
		say("left out: nginx is not installed\n")
		return nil
	}
	key, value := v.fresh(int64(v.Values.GetBytes))
	other, err := v.nginx(ctx, path, key, value)
	if err != nil {
		return err
	}
	if err := v.put(ctx, v.sys.oncekv.urls[0], key, value); err != nil {
		return err
	}
	if err := v.rest(ctx); err != nil {
		return err
	}
	name := "GET of " + sized(value.size)
	servers := []struct{ name, url string }{
		{"nginx", other},
		{"a database node", v.sys.oncekv.urls[0] + "/key/" + key},
		{"a cache node", "http://" + v.sys.oncekv.cache + "/key/" + key},
	}
	took := make([][]float64, len(servers))
	for round := range 1 + v.Values.Gets {
		for i, s := range servers {
			seconds, err := v.get(ctx, s.url, value.size)
			if err != nil {
				return fmt.Errorf("from %s: %w", s.name, err)
			}
			if round > 0 { // the caches are cold in the first round
				took[i] = append(took[i], seconds)
			}
		}
	}
	for i, s := range servers {
		v.figure(name+" from "+s.name+", ms", finding{}, scaled(took[i], 1000)...)
		if i > 0 {
			var ratios []float64
			for round, seconds := range took[i] {
				ratios = append(ratios, took[0][round]/seconds)
			}
			v.figure(name+" from "+s.name+" ÷ from nginx, rates", atLeast(0.7), ratios...)
		}
	}
	return nil
}

func scaled(of []float64, by float64) (all []float64) {
	for _, f := range of {
		all = append(all, f*by)
	}
	return all
}

// get returns the time of a GET to its last byte in seconds.
func (v *values) get(ctx context.Context, url string, size int64) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	resp, err := v.http.Do(req)
	if err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(plainWriter{}, struct{ io.Reader }{resp.Body}, make([]byte, readBytes))
	took := time.Since(start).Seconds()
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || n != size {
		return 0, fmt.Errorf("%s with %d bytes", resp.Status, n)
	}
	return took, nil
}

// nginx serves the value as a file, and returns its URL. It ends with the case.
func (v *values) nginx(ctx context.Context, path, key string, value *content) (url string, err error) {
	dir := filepath.Join(v.sys.dir, "nginx")
	file := filepath.Join(dir, "files", filepath.FromSlash(key))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, value.again(), make([]byte, readBytes)); err != nil {
		return "", errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return "", err
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	config := strings.ReplaceAll(nginxConf, "ADDR", addr)
	if os.Geteuid() == 0 {
		config = "user root root;\n" + config // the files are their owner's
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(config), 0o600); err != nil {
		return "", err
	}
	if err := v.sys.run(v.sys.dir, "nginx", path, "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;"); err != nil {
		return "", err
	}
	v.sys.nodes[len(v.sys.nodes)-1].parent = true // of its workers
	url = "http://" + addr + "/" + key
	return url, eventually(ctx, "nginx serves the value", v.sys.nodes, func(ctx context.Context) error {
		_, err := v.get(ctx, url, value.size)
		return err
	})
}

const nginxConf = `worker_processes 2;
pid nginx.pid;
error_log stderr warn;
events {}
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	sendfile on;
	tcp_nopush on;
	server {
		listen ADDR;
		root files;
	}
}
`
