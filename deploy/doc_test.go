// Package deploy_test checks the files of this directory against the program: it starts every
// node that they describe, with only the addresses and the directories replaced by this
// machine's.
package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// binary is the program, built as the Containerfile says; TestMain sets it.
var binary string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "oncekv-deploy-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "oncekv")
	if err := buildAsContainer(binary, testVersion); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// described is one node as a file describes it.
type described struct {
	host    string // host by which others reach it
	args    []string
	env     []string
	dataDir string // as in args or env, empty for caches and admins
}

func (d described) admin() bool { return d.args[0] == "admin" }

// fleet maps the addresses in descriptions to this machine.
type fleet struct {
	t     *testing.T
	addrs map[string]string
}

var address = regexp.MustCompile(`[A-Za-z0-9.-]+:(11000|12000|5551|5546)\b`)

// here replaces the addresses in s. A wildcard address means host.
func (f *fleet) here(host, s string) string {
	return address.ReplaceAllStringFunc(s, func(a string) string {
		name, port, err := net.SplitHostPort(a)
		if err != nil {
			f.t.Fatal(err)
		}
		if name == "0.0.0.0" {
			name = host
		}
		key := name + ":" + port
		if f.addrs[key] == "" {
			f.addrs[key] = clustertest.FreeAddr(f.t)
		}
		return f.addrs[key]
	})
}

// process prepares the node.
func (f *fleet) process(d described) *clustertest.Process {
	f.t.Helper()
	port := "11000"
	switch d.args[0] {
	case "cache":
		port = "5551"
	case "admin":
		port = "5546"
	}
	list := func(from []string) []string {
		var to []string
		for _, s := range from {
			s = f.here(d.host, s)
			if d.dataDir != "" && strings.HasSuffix(s, "="+d.dataDir) {
				s = strings.TrimSuffix(s, d.dataDir) + f.dataDir()
			}
			to = append(to, s)
		}
		return to
	}
	p := clustertest.NewProcess(f.t, binary, d.host, f.here(d.host, d.host+":"+port), list(d.args)...)
	p.Env = list(d.env)
	return p
}

// dataDir returns a fresh disk, with what mke2fs leaves there.
func (f *fleet) dataDir() string {
	dir := f.t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	return dir
}

// checkCluster runs database nodes, caches and admins as described, puts a key through the
// last cache, reads it everywhere, and stops all within limit.
func checkCluster(t *testing.T, limit time.Duration, nodes ...described) {
	t.Helper()
	f := &fleet{t: t, addrs: map[string]string{}}
	var all, serving, admins []*clustertest.Process
	for _, d := range nodes {
		checkReachable(t, d)
		p := f.process(d)
		p.Start()
		all = append(all, p)
		if d.admin() {
			admins = append(admins, p)
		} else {
			serving = append(serving, p)
		}
	}
	for _, p := range all {
		p.WaitReady()
	}
	ctx := clustertest.WithTimeout(t)
	last := clustertest.Client(t, serving[len(serving)-1].URL())
	if _, err := last.PutBytes(ctx, "k", []byte("v"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range serving {
		o, err := clustertest.Client(t, p.URL()).Get(ctx, "k", client.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(o.Body); err != nil || string(got) != "v" {
			t.Errorf("%s: %q, %v", p.Name, got, err)
		}
		_ = o.Body.Close()
	}
	for _, p := range admins {
		checkAdmin(t, p, len(serving))
	}
	for _, p := range all {
		if code, took := p.Terminate(); code != 0 || took >= limit {
			t.Errorf("%s ended with exit code %d after %v, allowed are %v", p.Name, code, took, limit)
		}
	}
}

// checkAdmin: the admin finds so many nodes, shows its page, and passes a read on.
func checkAdmin(t *testing.T, p *clustertest.Process, nodes int) {
	t.Helper()
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get(p.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s of %s: %s, %v", path, p.Name, resp.Status, err)
		}
		return string(body)
	}
	clustertest.Eventually(t, p.Name+" has found every node", func() error {
		var s api.AdminStats
		if err := json.Unmarshal([]byte(get("/stats")), &s); err != nil {
			return err
		}
		if s.Members+s.Caches != nodes || s.Down > 0 {
			return fmt.Errorf("%+v, want %d nodes", s, nodes)
		}
		return nil
	})
	if page, value := get("/"), get("/api/key?key=k"); !strings.HasPrefix(strings.ToLower(page), "<!doctype html>") || value != "v" {
		t.Errorf("%s: the page %.40q, the key %q", p.Name, page, value)
	}
}

// checkReachable: a node that listens on every interface says how others reach it; but no node
// ever connects to an admin. The test replaces wildcards, so the program cannot complain.
func checkReachable(t *testing.T, d described) {
	t.Helper()
	if d.admin() {
		return
	}
	all := strings.Join(append(append([]string{}, d.args...), d.env...), "\n") + "\n"
	for flag, advertise := range map[string]string{"--listen=0.0.0.0": "--advertise=http://" + d.host + ":", "--peer-listen=0.0.0.0": "--peer-advertise=http://" + d.host + ":"} {
		if strings.Contains(all, flag) && !strings.Contains(all, advertise) {
			t.Errorf("%s has %s without %s", d.host, flag, advertise)
		}
	}
}
