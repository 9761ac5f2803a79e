package main

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// wrongOfType are values that no flag of a type takes.
var wrongOfType = map[string][]string{
	"bool":     {"maybe", "2"},
	"int":      {"many", "1.5", "99999999999999999999"},
	"uint64":   {"many", "-1", "99999999999999999999"},
	"float64":  {"fast"},
	"duration": {"soon", "5", "99999999999h"},
	"size":     {"much", "-1", "1XB", "16EiB", "8EiB", "99999999EB"},
	"level":    {"loud", "INF O"},
}

var (
	noScheme  = []string{"h", "h:1", "10.0.0.1:11000"} // valid in lists of nodes to ask
	wrongURLs = []string{
		"https://h:1", "ftp://h:1", "http://", "http://:1", "http://h:0", "http://h:99999", "http://h:http", "http://h:",
		"http://u:p@h:1", "http://h:1/x", "http://h:1?", "http://h:1?x", "http://h:1#x", "http://h h:1", "http://169.254.169.254:80", "http://[fe80::1]:1",
		"http://[::ffff:169.254.169.254]:80", "http://2852039166:80", "http://0xa9fea9fe:80", "http://0.0.0.0:1", "http://[::]:1", "http://224.0.0.1:1", "http://[::1:1", "http://-h:1",
		"http://" + strings.Repeat("a", 3000),
	}
	wrongAdvertised = slices.Concat([]string{"http://h", "http://[::1]"}, noScheme, wrongURLs)
	wrongEndpoints  = append([]string{",", "http://h:1,", ",http://h:1", `"`}, wrongURLs...)
	wrongListens    = []string{"localhost", "11000", ":11000", "0.0.0.0:11000", "[::]:11000", "::1:1", ":http", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:", "a b:1", "127.1:1", "169.254.1.1:1", "http://127.0.0.1:1"}
	wrongNames      = []string{".n", "-n", "a/b", "a b", "a\nb", "\x1b[2J", "é", "\xff", "a,b", "a=b", strings.Repeat("n", 65)}
	wrongBounds     = []string{"-1", "-9223372036854775808"}
	tooLarge        = []string{"7EiB", "2EiB"}
)

// wrongValues are the values that single flags refuse, by command and flag. nil: any text is
// valid, or only a node can tell.
var wrongValues = map[string][]string{
	"serve name":               wrongNames,
	"serve data-dir":           nil,
	"serve listen":             append([]string{"127.0.0.1:12000"}, wrongListens...), // the same as --peer-listen
	"serve peer-listen":        append([]string{"127.0.0.1:11000"}, wrongListens...),
	"serve advertise":          append([]string{"http://127.0.0.1:12000"}, wrongAdvertised...),
	"serve peer-advertise":     append([]string{"http://127.0.0.1:11000"}, wrongAdvertised...),
	"serve join":               append([]string{"http://127.0.0.1:11000", "127.0.0.1:11000"}, wrongEndpoints...), // the node itself
	"serve max-connections":    wrongBounds,
	"serve max-value-bytes":    append([]string{"0"}, tooLarge...),
	"serve disk-reserve-bytes": tooLarge,
	"serve snapshot-log-bytes": append([]string{"0"}, tooLarge...),
	"serve learner":            {"true"}, // without --join
	"serve force-new-cluster":  {"maybe", "2", "yes", "AGAIN", "AGAIN-", "again-2", "AGAIN 2", "AGAIN-2 ", "AGAIN-\n", "AGAIN-a,b", "AGAIN-\xff", "AGAIN-" + strings.Repeat("x", 65)},
	"serve initial-cluster": {
		"n1", "n1=", "=http://h:1", "n2=http://h:2", "n1=h:1", "n1=https://h:1", "n1=http://h", "n1=http://h:1,n1=http://h:2", "n1=http://h:1,n2=http://h:1", "n1=http://h:1,n2=http://H:01/",
		"n1=http://h:1,", ",n1=http://h:1", "n1=http://h:1,.n2=http://h:2", "n1=http://h:1,n2=http://169.254.169.254:2", "n1=http://127.0.0.1:11000", `"`,
	},
	"cache name":             wrongNames,
	"cache listen":           wrongListens,
	"cache advertise":        wrongAdvertised,
	"cache nodes":            wrongEndpoints,
	"cache cache-bytes":      append([]string{"0"}, tooLarge...),
	"cache max-connections":  wrongBounds,
	"admin listen":           {"localhost", "5546", ":http", "127.0.0.1:99999", "a b:1", "127.1:1", "http://127.0.0.1:1"},
	"admin nodes":            wrongEndpoints,
	"admin max-connections":  wrongBounds,
	"dev data-dir":           nil,
	"dev port-offset":        {"-1", "60000"},
	"endpoints":              wrongEndpoints, // of every command of clients
	"allowed-hosts":          {"*.example.com", "http://h", "h:1", "a b", "h/x", ","},
	"timeout":                {"0s", "-1s"},
	"scrub-interval":         {"-1s", "-1ns", "1ns", "999ms"},
	"members add id":         nil,
	"members add peer-url":   wrongAdvertised,
	"members add client-url": wrongAdvertised,
	"members add role":       {"boss"},
	"members add level":      {"0"},
	"put content-type":       nil,
	"put put-id":             nil,
	"put meta":               {"source", "=ci", "n=", "Source=ci", "a b=c", "n=ü", "n= v", "n=v ", "n=a\nb", strings.Repeat("n", 65) + "=v", "n=" + strings.Repeat("v", 2<<10)},
	"put value":              nil,
	"get output":             nil,
	"import prefix":          nil,
	"import exclude":         {"["},
	"import parallel":        {"0", "-1"},
	"ls limit":               {"-1"},
	"watch limit":            {"-1"},
	"watch since":            {"yesterday", "-1", "+1", "1.5", "7.", "." + watchedHistory, "7." + watchedHistory[1:], "7." + strings.ToUpper(watchedHistory), "now." + watchedHistory, "7:" + watchedHistory},
	"bench prefix":           nil,
	"bench run":              nil,
	"bench svg":              {"/no/such/directory/x.svg"},
	"bench distribution":     {"normal", "zipf:0"},
	"bench target":           {"learner"},
	"bench mix":              {"get", "scan=1"},
}

// arguments are what a command needs besides flags.
var arguments = map[string][]string{
	"put": {"k", "v"}, "get": {"k"}, "stat": {"k"}, "import": {"."}, "members add": {"n4", "--peer-url=http://h:1", "--client-url=http://h:2"}, "members remove": {"n4"},
	"bench": {"mixed"}, "batch": {"-"},
}

// Every flag of every command refuses nonsense, on the command line and in the environment,
// with a sentence that names it and the exit code that tells service managers not to try
// again. A new flag needs a row.
func TestSettings_EveryFlag_WrongValues(t *testing.T) {
	t.Chdir(t.TempDir())
	used := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "oncekv"), " ")
		if !strings.HasPrefix(path, "completion") {
			cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" {
					t.Run(path+" "+f.Name, func(t *testing.T) { wrongValuesOf(t, path, f, used) })
				}
			})
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk((&app{env: func(string) string { return "" }}).rootCommand())
	for row := range wrongValues {
		if !used[row] {
			t.Errorf("there is no flag %q any more", row)
		}
	}
}

func wrongValuesOf(t *testing.T, path string, f *pflag.Flag, used map[string]bool) {
	values := wrongOfType[f.Value.Type()]
	row, found := path+" "+f.Name, false
	for _, key := range []string{row, f.Name} {
		if more, known := wrongValues[key]; known {
			used[key], found, values = true, true, append(values[:len(values):len(values)], more...)
			break
		}
	}
	if _, typed := wrongOfType[f.Value.Type()]; !typed && !found {
		t.Fatalf("the flag is new: wrongValues needs a row for it, %q", row)
	}
	for _, value := range values {
		if f.Name == "endpoints" && strings.HasPrefix(value, "https:") {
			continue // a proxy may use it
		}
		line := append(strings.Fields(path), arguments[path]...)
		refuses(t, f.Name, runBriefly(t, nil, append(line, "--"+f.Name+"="+value)...), value)
		if !strings.Contains(strings.Join(line, " "), "--"+f.Name) { // a flag beats the environment
			refuses(t, f.Name, runBriefly(t, map[string]string{environmentTwin(f.Name): value}, line...), value)
		}
	}
}

// runBriefly is runCommand for values with which a node may start.
func runBriefly(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(""), &stdout, &stderr, func(name string) string { return env[name] })
	return result{code, stdout.String(), stderr.String()}
}

// refuses checks that a command refused a wrong value.
func refuses(t *testing.T, flag string, r result, value string) {
	t.Helper()
	first, _, _ := strings.Cut(r.stderr, "\n")
	if r.code != exitUsage || !strings.Contains(first, "--"+flag) || !strings.Contains(r.stderr, "--help' for usage.") {
		t.Errorf("--%s=%.60q: exit code %d, want %d and a sentence about --%s:\n%.300s", flag, value, r.code, exitUsage, flag, r.stderr)
	}
}

// An error that only the start finds is a usage error only if it will never change.
func TestSettings_Start_ExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	busy := taken.Addr().String()
	dir := t.TempDir()
	for line, code := range map[string]int{
		"serve --peer-listen 127.0.0.1:0 --listen " + busy:                               exitFailed,
		"serve --listen 127.0.0.1:0 --peer-listen " + busy:                               exitFailed,
		"cache --listen " + busy:                                                         exitFailed,
		"admin --listen " + busy:                                                         exitFailed,
		"serve --peer-listen 127.0.0.1:0 --listen no-such-host.invalid:0":                exitUsage,
		"serve --listen 127.0.0.1:0 --peer-listen no-such-host.invalid:0":                exitUsage,
		"cache --listen no-such-host.invalid:0":                                          exitUsage,
		"admin --listen no-such-host.invalid:0":                                          exitUsage,
		"serve --listen 127.0.0.1:0 --peer-listen 127.0.0.1:0 --force-new-cluster --yes": exitUsage,
	} {
		args := strings.Fields(line)
		if args[0] == "serve" {
			args = append(args, "--data-dir", filepath.Join(dir, strconv.Itoa(len(line))))
		}
		if r := runCommand(t, nil, nil, args...); r.code != code {
			t.Errorf("%s: exit code %d, want %d: %s", line, r.code, code, r.stderr)
		}
	}
}
