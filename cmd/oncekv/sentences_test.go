package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

// clause matches a part of a sentence that says something.
var clause = regexp.MustCompile(`[^:;()."\n]{12,}`)

// saidTwice returns a clause that occurs twice in a text.
func saidTwice(text string) string {
	seen := map[string]bool{}
	for _, c := range clause.FindAllString(text, -1) {
		c = strings.TrimSpace(c)
		if seen[c] && !strings.Contains(c, "//") && len(c) >= 12 {
			return c
		}
		seen[c] = true
	}
	return ""
}

func TestSaidTwice(t *testing.T) {
	for text, want := range map[string]string{
		"the member's description is not valid: the member's description is not valid: name":          "the member's description is not valid",
		`no member has that name (no member has that name: "n9")`:                                     "no member has that name",
		"put k: unavailable: http://127.0.0.1:1 unreachable: refused; http://127.0.0.1:2 unreachable": "",
	} {
		if got := saidTwice(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// startNode runs a database node that is the whole cluster.
func startNode(t *testing.T) *server.Database {
	t.Helper()
	db, err := server.StartDatabase(t.Context(), server.DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: clustertest.FreeAddr(t), PeerListen: clustertest.FreeAddr(t), DiskReserveBytes: -1})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := db.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	r := runCommand(t, nil, nil, "put", "app/a", "v", "--endpoints", db.URL(), "--wait").want(t, exitDone)
	r.wantStdout(t, "created app/a: revision 1")
	return db
}

// No error says a thing twice, however its parts were wrapped.
func TestSentences_SayThingsOnce(t *testing.T) {
	db := startNode(t)
	member := func(name, id, peer, client string) []string {
		return []string{"members", "add", name, "--id=" + id, "--peer-url=" + peer, "--client-url=" + client}
	}
	dir := files(t, map[string]string{"app/a": "other"})
	for _, line := range [][]string{
		{"members", "remove", "n9", "--yes"}, {"members", "promote", "n9"}, {"members", "leader", "n9"}, {"members", "remove", "n1", "--yes"}, {"members", "promote", "n1"},
		member("n 9", "ab", "http://127.0.0.1:1", "http://127.0.0.1:2"), member("n9", "zz", "http://127.0.0.1:1", "http://127.0.0.1:2"),
		member("n9", "0", "http://127.0.0.1:1", "http://127.0.0.1:2"), member("n1", "ab", "http://127.0.0.1:1", "http://127.0.0.1:2"),
		{"put", "app/a", "w"}, {"put", "app/a", "v", "--if-absent"}, {"put", "k", "v", "--content-type", "nonsense"}, {"put", "k", "v", "--put-id", strings.Repeat("x", 65)},
		{"put", "k", "@" + filepath.Join(dir, "absent")}, {"put", "k", "@" + dir}, {"put", strings.Repeat("k", 1025), "v"},
		{"get", "absent"}, {"get", "app/a", "-o", dir}, {"get", "app/a", "-o", filepath.Join(dir, "absent", "x")},
		{"import", dir}, {"import", filepath.Join(dir, "absent")}, {"import", dir, "--exclude", "["}, {"batch", filepath.Join(dir, "absent")}, {"batch", dir},
		{"watch", "--since", "99999", "--limit", "1", "--timeout", "50ms"},
		{"bench", "delete"}, {"bench", "mixed", "--mix", "scan=1"}, {"bench", "get", "--distribution", "zipf:0"}, {"bench", "--svg", filepath.Join(dir, "absent", "x.svg")},
		{"serve", "--force-new-cluster", "--yes", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"},
		{"serve", "--data-dir", filepath.Join(dir, "app/a")},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		var out, stderr strings.Builder
		code := run(ctx, append(line, endpointsFor(line, db.URL())...), strings.NewReader(""), &out, &stderr, func(string) string { return "" })
		cancel()
		for sentence := range strings.Lines(stderr.String()) {
			if twice := saidTwice(sentence); code != exitDone && twice != "" {
				t.Errorf("%q: %q is said twice:\n%s", line, twice, sentence)
			}
		}
	}
	for _, request := range []string{
		"DELETE /members/n9", "POST /members/n9/promote", "DELETE /members/n1", `POST /leader {"to":"n9"}`, `POST /leader {}`, `POST /members {"name":"n9"}`,
		`POST /members {"id":"ab","name":"n 9","peer_url":"http://127.0.0.1:1","client_url":"http://127.0.0.1:2"}`,
		`POST /members {"id":"ab","name":"n9","peer_url":"ftp://h","client_url":"http://127.0.0.1:2"}`,
		`POST /members {"id":"ab","name":"n9","peer_url":"http://127.0.0.1:1","client_url":""}`,
		`POST /members {"id":"ab","name":"n9","peer_url":"http://127.0.0.1:1","client_url":"http://127.0.0.1:2","role":"boss"}`,
		"PUT /key/app/a w", "POST /key/app/a w", "DELETE /key/app/a", "GET /keys?after=x", "GET /keys?limit=x", "GET /changes?since=x", "POST /key {", `POST /key {"key":"k"}`, "GET /key?key=%00",
	} {
		method, rest, _ := strings.Cut(request, " ")
		target, body, _ := strings.Cut(rest, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, db.URL()+target, strings.NewReader(body))
		must(t, err)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		answer, err := io.ReadAll(resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		detail := regexp.MustCompile(`"detail":"((?:[^"\\]|\\.)*)"`).FindSubmatch(answer)
		if resp.StatusCode < 400 || detail == nil {
			t.Errorf("%s: %d %s", request, resp.StatusCode, answer)
			continue
		}
		if twice := saidTwice(string(detail[1])); twice != "" {
			t.Errorf("%s: %q is said twice: %s", request, twice, detail[1])
		}
	}
}

func endpointsFor(line []string, url string) []string {
	if line[0] == "serve" {
		return nil
	}
	return []string{"--endpoints", strings.TrimPrefix(url, "http://")}
}

// A conflict names the put that won.
func TestPut_ConflictNamesWinner(t *testing.T) {
	db := startNode(t)
	const digest = "4c94485e0c21ae6c41ce1dfe7b6bfaceea5ab68e40a2476f50208e526f506080" // of "v"
	for _, line := range [][]string{{"put", "app/a", "other"}, {"put", "app/a", "v", "--if-absent"}, {"import", files(t, map[string]string{"app/a": "other"})}, {"batch"}} {
		r := runCommand(t, strings.NewReader(`{"key":"app/a","value":"other"}`), nil, append(line, "--endpoints", db.URL())...).want(t, exitConflict)
		r.wantStderr(t, "since revision 1 (1 byte, sha256 "+digest+")")
	}
}

func TestGet_HintsAtPrefix(t *testing.T) {
	f := newFakeAPI(t)
	f.command(t, nil, "get", "app/").want(t, exitNotFound)
	f.set("app/1", []byte("x"))
	f.command(t, nil, "get", "app/").want(t, exitNotFound).wantStderr(t, "One key begins with app/")
	for i := range 10 {
		f.set(fmt.Sprint("app/x", i), []byte("x"))
	}
	f.command(t, nil, "get", "app/").want(t, exitNotFound).wantStderr(t, "11 keys begin with app/", `"app/" is not set`)
	if r := f.command(t, nil, "get", "other").want(t, exitNotFound); strings.Contains(r.stderr, "begin") {
		t.Errorf("said %s", r.stderr)
	}
}

func TestVersionFlag(t *testing.T) {
	flag := runCommand(t, nil, nil, "--version").want(t, exitDone)
	if command := runCommand(t, nil, nil, "version").want(t, exitDone); flag.stdout != command.stdout || !strings.HasPrefix(flag.stdout, "oncekv ") {
		t.Errorf("--version says %q, version %q", flag.stdout, command.stdout)
	}
}

// Every kind of node says where it listens, in its log if standard error is not a terminal. A
// seed node may be named by host:port.
func TestNodes_SayWhere(t *testing.T) {
	dir, listen, peer, nobody := filepath.Join(t.TempDir(), "d"), clustertest.FreeAddr(t), clustertest.FreeAddr(t), clustertest.FreeAddr(t)
	for line, want := range map[string]string{
		"serve --name n7 --data-dir " + dir + " --listen " + listen + " --peer-listen " + peer + " --join " + nobody: fmt.Sprintf(
			`"msg":"listening","who":"database node n7","clients":"http://%s","peers":"http://%s","data":%q}`, listen, peer, dir),
		"cache --listen " + listen + " --nodes " + nobody: fmt.Sprintf(`"msg":"listening","who":"cache node c1","clients":"http://%s"}`, listen),
		"admin --listen " + listen + " --nodes " + nobody: fmt.Sprintf(`"msg":"listening","who":"the admin","browsers":"http://%s"}`, listen),
	} {
		saysWhileRunning(t, strings.Fields(line), want)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// saysWhileRunning runs a command until it has written want to standard error.
func saysWhileRunning(t *testing.T, args []string, want string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stderr, ended := newSafeBuffer(), make(chan int, 1)
	go func() { ended <- run(ctx, args, nil, io.Discard, stderr, func(string) string { return "" }) }()
	for !strings.Contains(stderr.String(), want) {
		select {
		case <-stderr.written:
		case code := <-ended:
			t.Fatalf("exit code %d\n%s", code, stderr.String())
		case <-time.After(20 * time.Second):
			t.Fatalf("said only\n%s", stderr.String())
		}
	}
	cancel()
	if code := <-ended; code != exitDone {
		t.Errorf("%s: exit code %d\n%s", args[0], code, stderr.String())
	}
}

// A node may be named without its scheme.
func TestEndpoints_WithoutScheme(t *testing.T) {
	f := newFakeAPI(t)
	addr := strings.TrimPrefix(f.URL, "http://")
	runCommand(t, nil, nil, "put", "k", "v", "--endpoints", addr).want(t, exitDone)
	runCommand(t, nil, map[string]string{"ONCEKV_ENDPOINTS": addr + "," + f.URL}, "get", "k").want(t, exitDone)
	runCommand(t, nil, nil, "bench", "put", "--yes", "--requests", "1", "--endpoints", addr).want(t, exitDone)
	runCommand(t, nil, nil, "put", "k", "v", "--endpoints", "ftp://"+addr).want(t, exitUsage)
}
