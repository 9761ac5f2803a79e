// Package deploy_test checks the files of this directory against the program.
package deploy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
	"github.com/Focinfi/oncekv/server/metrics"
)

// tool finds a program of a Debian package. Without it, it skips the test, or fails it in full
// mode.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	for _, file := range []string{name, "/usr/sbin/" + name} { // not everybody's PATH has it
		if path, err := exec.LookPath(file); err == nil {
			return path
		}
	}
	if os.Getenv("ONCEKV_TEST_FULL") != "" {
		t.Fatalf("%s is not installed (Debian package %s)", name, debianPackage)
	}
	t.Skipf("%s is not installed (Debian package %s)", name, debianPackage)
	return ""
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shown returns what nodes of all kinds show at /metrics.
func shown(t *testing.T) string {
	t.Helper()
	d := metrics.NewDatabase("n1", func() metrics.DatabaseFigures { return metrics.DatabaseFigures{} })
	c := metrics.NewCache("c1", func() api.CacheStats { return api.CacheStats{} })
	c.WatchLoads(func() (peer, database cachetier.Latency) { return cachetier.Latency{}, cachetier.Latency{} })
	a := metrics.NewAdmin("admin", func() api.AdminStats { return api.AdminStats{} })
	d.Watch(func() metrics.Connections { return metrics.Connections{} })
	d.Traffic.Route("GET", "/key/{key}")(200, time.Millisecond)
	var b strings.Builder
	for _, h := range []http.Handler{d.Handler(), c.Handler(), a.Handler()} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		b.WriteString(w.Body.String())
	}
	return b.String()
}

// expressions lists the queries of the dashboard.
func expressions(t *testing.T) []string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			ID      int
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/oncekv.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			list = append(list, target.Expr)
		}
	}
	if len(list) < 20 {
		t.Fatalf("the dashboard has %d queries", len(list))
	}
	return list
}

// TestMetricsExist: dashboard and alerts name only metrics that nodes show.
func TestMetricsExist(t *testing.T) {
	text := shown(t)
	name := regexp.MustCompile(`\b(oncekv|go|process)_[a-z0-9_]+`)
	for _, path := range []string{"prometheus/alerts.yml", "prometheus/alerts_test.yml"} {
		for _, m := range name.FindAllString(read(t, path), -1) {
			if !strings.Contains(text, "\n"+m) {
				t.Errorf("%s: no node shows %s", path, m)
			}
		}
	}
	for _, e := range expressions(t) {
		for _, m := range name.FindAllString(e, -1) {
			if !strings.Contains(text, "\n"+m) {
				t.Errorf("the dashboard: no node shows %s", m)
			}
		}
	}
}

func TestPromtool(t *testing.T) {
	promtool := tool(t, "promtool", "prometheus")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"}, {"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"},
	} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(ours(shown(t)))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// ours leaves out what several nodes of one process show twice.
func ours(text string) string {
	seen := map[string]bool{}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "oncekv_") && !seen[line] && !strings.Contains(line, "build_info") && !strings.Contains(line, "in_flight") {
			seen[line] = true
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestPrometheus: a real Prometheus scrapes a running cluster, evaluates the alerts without an
// error, and answers every query of the dashboard.
func TestPrometheus(t *testing.T) {
	if os.Getenv("ONCEKV_TEST_FULL") == "" {
		t.Skip("runs a Prometheus; set ONCEKV_TEST_FULL=1 to run it")
	}
	prometheus := tool(t, "prometheus", "prometheus")
	c := clustertest.Start(t, 3, 2)
	ctx := clustertest.WithTimeout(t)
	for i := range 7 {
		if _, err := c.Client(t).PutBytes(ctx, fmt.Sprint("k", i), []byte("v"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	admin, err := server.StartAdmin(ctx, server.AdminConfig{Listen: "127.0.0.1:0", Nodes: []string{c.DBs[0].URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close(context.Background()) })
	api := runPrometheus(t, prometheus, c, admin)
	clustertest.Eventually(t, "Prometheus has scraped every node twice", func() error {
		if n := api.query(t, `count(count_over_time(up[1m]) >= 2 and up == 1)`); len(n) != 1 || n[0] != "6" {
			return fmt.Errorf("nodes that are up: %v", n)
		}
		return nil
	})
	for query, want := range map[string]string{
		"max(oncekv_store_keys)": "7", "sum(oncekv_raft_is_leader)": "1", "sum(oncekv_puts_total{outcome=\"created\"})": "7",
		"sum(oncekv_cache_ready)": "2", "sum(oncekv_admin_members)": "3", "sum(oncekv_admin_caches)": "2", "sum(oncekv_admin_down)": "0",
		"count(oncekv_build_info)": "6", "count(oncekv_raft_wal_fsync_duration_seconds_count > 0)": "3",
	} {
		clustertest.Eventually(t, query, func() error {
			if got := api.query(t, query); !slices.Equal(got, []string{want}) {
				return fmt.Errorf("%v, want %s", got, want)
			}
			return nil
		})
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*")
	for _, e := range expressions(t) {
		api.query(t, variables.Replace(e))
	}
	clustertest.Eventually(t, "the alerts are evaluated", func() error { return api.alertsFine(t) })
}

// promAPI is the URL of a Prometheus.
type promAPI string

func runPrometheus(t *testing.T, path string, c *clustertest.Cluster, admin *server.Admin) promAPI {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var dbs, caches []string
	for _, d := range c.DBs {
		dbs = append(dbs, strings.TrimPrefix(d.URL(), "http://"))
	}
	for _, n := range c.Caches {
		caches = append(caches, strings.TrimPrefix(n.URL(), "http://"))
	}
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n"+
		"  - {job_name: oncekv-database, static_configs: [{targets: [%s]}]}\n  - {job_name: oncekv-cache, static_configs: [{targets: [%s]}]}\n"+
		"  - {job_name: oncekv-admin, static_configs: [{targets: [%s]}]}\n",
		rules, strings.Join(dbs, ", "), strings.Join(caches, ", "), strings.TrimPrefix(admin.URL(), "http://"))
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := clustertest.FreeAddr(t)
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // killed
	})
	api := promAPI("http://" + addr)
	clustertest.Eventually(t, "Prometheus is ready", func() error {
		resp, err := http.Get(string(api) + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
	return api
}

// get decodes an answer of the API into data, and fails the test on an error.
func (api promAPI) get(t *testing.T, path string, data any) {
	t.Helper()
	resp, err := http.Get(string(api) + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %v %s", path, err, answer.Error)
	}
}

// query returns the current values of a query's series.
func (api promAPI) query(t *testing.T, expr string) []string {
	t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	api.get(t, "/api/v1/query?query="+url.QueryEscape(expr), &data)
	var values []string
	for _, r := range data.Result {
		values = append(values, fmt.Sprint(r.Value[1]))
	}
	return values
}

// alertsFine returns nil if every rule was evaluated without an error and none fires on a
// healthy cluster.
func (api promAPI) alertsFine(t *testing.T) error {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, State, LastError string }
		}
	}
	api.get(t, "/api/v1/rules", &data)
	seen := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			seen++
			if r.Health != "ok" || r.State == "firing" && r.Name != "OncekvDiskFillsUp" { // that alert is about this machine
				return fmt.Errorf("%s is %s and %s: %s", r.Name, r.Health, r.State, r.LastError)
			}
		}
	}
	if seen < 10 {
		return fmt.Errorf("%d rules", seen)
	}
	return nil
}
