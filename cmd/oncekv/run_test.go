package main

import (
	"bytes"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/Focinfi/oncekv/internal/level"
)

func TestRun_Usage(t *testing.T) {
	for _, line := range []string{
		"",
		"frobnicate",
		"put",
		"put k a b",
		"put k a --value b",
		"put k @",
		"put  v",
		"put k v --endpoints ftp://x",
		"put k v --endpoints ,",
		"put k v --timeout 0s",
		"put k v --timeout soon",
		"put k v --no-such-flag",
		"put " + strings.Repeat("k", 1025) + " v",
		"get",
		"get a b",
		"stat",
		"stat a b",
		"put k v --meta a=1 --meta a=2",
		"batch a b",
		"batch  ",
		"batch --timeout 0s",
		"batch --endpoints ftp://x",
		"import",
		"import . --parallel 0",
		"import . --parallel many",
		"members no-such",
		"members transfer",
		"members add n4",
		"members add n4 --peer-url http://h:1 --client-url h:2",
		"members add n4 --peer-url http://h:1 --client-url http://h:2 --role boss",
		"version x",
		"ls a b",
		"ls --limit -1",
		"ls --endpoints ftp://x",
		"watch a b",
		"watch --since yesterday",
		"watch --since -1",
		"watch --limit -1",
		"stats x",
		"stats --timeout 0s",
		"bench delete",
		"bench put get",
		"bench --duration 0s",
		"bench --warmup -1s",
		"bench --interval 0s",
		"bench --rate -1",
		"bench --rate NaN",
		"bench batch --batch-keys 0",
		"bench mixed --mix get",
		"bench mixed --mix scan=1",
		"bench get --distribution normal",
		"bench get --distribution zipf:0",
		"bench --target learner",
		"bench --value-size 9-3",
		"bench --svg /no/such/directory/x.svg",
		"bench --connections 0",
		"bench --keys 0",
		"bench --key-size 10",
		"bench --key-size 1025",
		"bench --value-size 1TiB",
		"completion",
		"completion tcsh",
		"dev --port-offset -1",
		"dev --port-offset 60000",
		"dev --log-level loud",
		"serve x",
		"serve --listen 0.0.0.0:11000",
		"serve --listen :11000",
		"serve --listen [::]:11000",
		"serve --peer-listen 0.0.0.0:12000",
		"serve --listen 11000",
		"serve --advertise 10.0.0.1:11000",
		"serve --advertise http://h:1/path",
		"serve --name .hidden",
		"serve --name a/b",
		"serve --initial-cluster n1",
		"serve --initial-cluster n1=h:1",
		"serve --initial-cluster n2=http://h:1",
		"serve --initial-cluster n1=http://h:1,n1=http://h:2",
		"serve --initial-cluster n1=http://h:1,n2=http://h:1",
		"serve --initial-cluster n1=http://h:1 --join http://h:2",
		"serve --join ftp://h:2",
		"serve --learner",
		"serve --max-value-bytes 0",
		"serve --max-value-bytes much",
		"serve --allowed-hosts http://kv.example",
		"cache --allowed-hosts a.example,*.b.example",
		"admin --allowed-hosts kv.example:80",
		"dev --allowed-hosts .",
		"cache --listen 0.0.0.0:1",
		"cache --nodes ftp://h:1",
		"cache --name /",
		"cache --cache-bytes 0",
		"cache --cache-bytes -1",
	} {
		t.Run(line, func(t *testing.T) {
			var args []string
			if line != "" {
				args = strings.Split(line, " ")
			}
			r := runCommand(t, strings.NewReader(""), nil, args...).want(t, exitUsage)
			if r.stdout != "" {
				t.Errorf("standard output: %s", r.stdout)
			}
			r.wantStderr(t, "oncekv: ", "--help' for usage.")
		})
	}
}

func TestRun_UsageSaysHow(t *testing.T) {
	runCommand(t, nil, nil, "serve", "--listen", "0.0.0.0:11000").want(t, exitUsage).wantStderr(t, "--advertise URL", "Run 'oncekv serve --help'")
	runCommand(t, nil, nil, "serve", "--log-level", "foo").want(t, exitUsage).wantStderr(t, `"foo" for "--log-level" flag: the levels are debug, info, warn and error`)
	runCommand(t, nil, nil, "ls", "--limit", "99999999999999999999").want(t, exitUsage).wantStderr(t, `for "--limit" flag: value out of range`)
	runCommand(t, nil, nil, "put", "k", "--timeout", "x").want(t, exitUsage).wantStderr(t, "--timeout")
}

func TestRun_Help(t *testing.T) {
	runCommand(t, nil, nil, "--help").want(t, exitDone).wantStdout(t, "dev", "serve", "cache", "put", "get", "stat", "ls", "watch", "batch", "import", "members", "stats", "bench", "completion", "version")
	r := runCommand(t, nil, nil, "serve", "--help").want(t, exitDone)
	r.wantStdout(t, "--name", "--force-new-cluster", "--data-dir", "--listen", "--peer-listen", "--advertise", "--peer-advertise", "--initial-cluster", "--join")
	runCommand(t, nil, nil, "cache", "--help").want(t, exitDone).wantStdout(t, "--nodes", "--cache-bytes", "64MiB")
}

func TestRun_Version(t *testing.T) {
	runCommand(t, nil, nil, "version").want(t, exitDone).wantStdout(t, "oncekv ", "go1.", " level 1\n")
	var b build
	must(t, json.Unmarshal([]byte(runCommand(t, nil, nil, "version", "--json").want(t, exitDone).stdout), &b))
	if b.Go == "" || b.Platform == "" || b.Version == "" || b.Level != level.Highest {
		t.Fatalf("%+v", b)
	}
}

func TestRun_EnvironmentTwins(t *testing.T) {
	f := newFakeAPI(t)
	env := map[string]string{"ONCEKV_ENDPOINTS": f.URL, "ONCEKV_JSON": "true", "ONCEKV_CONTENT_TYPE": "text/x-env", "PORT": "nonsense", "ONCEKV_PUT_ID": ""}
	r := runCommand(t, nil, env, "put", "k", "v").want(t, exitDone)
	if !json.Valid([]byte(r.stdout)) {
		t.Errorf("ONCEKV_JSON was not heard: %s", r.stdout)
	}
	runCommand(t, nil, env, "put", "k2", "v", "--content-type", "text/x-flag", "--json=false").want(t, exitDone).wantStdout(t, "created k2")
	k, _ := f.value("k")
	k2, _ := f.value("k2")
	if got := k.contentType + " " + k2.contentType; got != "text/x-env text/x-flag" {
		t.Errorf("content types %s", got)
	}
	env["ONCEKV_TIMEOUT"] = "soon"
	runCommand(t, nil, env, "put", "k3", "v").want(t, exitUsage).wantStderr(t, "ONCEKV_TIMEOUT")
}

func TestRun_EnvironmentOfServe(t *testing.T) {
	env := map[string]string{"ONCEKV_LISTEN": "0.0.0.0:11000"}
	runCommand(t, nil, env, "serve").want(t, exitUsage).wantStderr(t, "0.0.0.0:11000")
	for _, command := range []string{"serve", "cache", "admin", "dev"} {
		env := map[string]string{"ONCEKV_ALLOWED_HOSTS": "kv.example,*.lab.example"}
		runCommand(t, nil, env, command).want(t, exitUsage).wantStderr(t, "--allowed-hosts", `".lab.example"`)
	}
}

// A full disk is not a usage error.
func TestRun_OutputLost(t *testing.T) {
	for _, arg := range []string{"--version", "version"} {
		var stderr bytes.Buffer
		code := run(t.Context(), []string{arg}, nil, fullDisk{}, &stderr, func(string) string { return "" })
		if code != exitFailed || !strings.Contains(stderr.String(), "no space") {
			t.Errorf("%s: exit code %d\n%s", arg, code, stderr.String())
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A taken port is a failure, and dev says how to run beside its owner.
func TestRun_PortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	addr := l.Addr().String()
	dir := filepath.Join(t.TempDir(), "n1")
	runCommand(t, nil, nil, "serve", "--listen", addr, "--peer-listen", "127.0.0.1:0", "--data-dir", dir).want(t, exitFailed).wantStderr(t, "start database node n1", addr)
	runCommand(t, nil, nil, "cache", "--listen", addr).want(t, exitFailed).wantStderr(t, "start cache node c1", addr)
}
