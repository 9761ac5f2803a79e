// Package deploy_test checks the files of this directory against the program:
// every node that they describe is started, with only the addresses and the
// directories replaced by ones of this machine.
package deploy_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// binary is the program, built as the Containerfile says; set by TestMain.
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
	host    string // by which others reach it
	args    []string
	env     []string
	dataDir string // as in args or env, empty for caches
}

// fleet gives the addresses in descriptions a place on this machine.
type fleet struct {
	t     *testing.T
	addrs map[string]string
}

var address = regexp.MustCompile(`[A-Za-z0-9.-]+:(11000|12000|5551)\b`)

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
	if d.args[0] == "cache" {
		port = "5551"
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

// dataDir is a fresh disk, with what mke2fs leaves there.
func (f *fleet) dataDir() string {
	dir := f.t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	return dir
}

// checkCluster runs database nodes and caches as described, puts a key through
// the last cache, reads it everywhere, and stops all within limit.
func checkCluster(t *testing.T, limit time.Duration, nodes ...described) {
	t.Helper()
	f := &fleet{t: t, addrs: map[string]string{}}
	var all []*clustertest.Process
	for _, d := range nodes {
		checkReachable(t, d)
		p := f.process(d)
		p.Start()
		all = append(all, p)
	}
	for _, p := range all {
		p.WaitReady()
	}
	ctx := clustertest.WithTimeout(t)
	last := clustertest.Client(t, all[len(all)-1].URL())
	if _, err := last.PutBytes(ctx, "k", []byte("v"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		o, err := clustertest.Client(t, p.URL()).Get(ctx, "k", client.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(o.Body); err != nil || string(got) != "v" {
			t.Errorf("%s: %q, %v", p.Name, got, err)
		}
		_ = o.Body.Close()
	}
	for _, p := range all {
		if code, took := p.Terminate(); code != 0 || took >= limit {
			t.Errorf("%s ended with exit code %d after %v, allowed are %v", p.Name, code, took, limit)
		}
	}
}

// checkReachable: who listens on every interface says how others get there.
// The test replaces wildcards, so the program cannot complain.
func checkReachable(t *testing.T, d described) {
	t.Helper()
	all := strings.Join(append(append([]string{}, d.args...), d.env...), "\n") + "\n"
	for flag, advertise := range map[string]string{"--listen=0.0.0.0": "--advertise=http://" + d.host + ":", "--peer-listen=0.0.0.0": "--peer-advertise=http://" + d.host + ":"} {
		if strings.Contains(all, flag) && !strings.Contains(all, advertise) {
			t.Errorf("%s has %s without %s", d.host, flag, advertise)
		}
	}
}
