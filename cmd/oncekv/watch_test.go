package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// Every stream of the fake breaks off; watch resumes where it was.
func TestWatch_SurvivesDeaths(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("a", "x/b", "c", "x/d", "e")
	f.locked(func() { f.history = 1 })
	r := f.command(t, nil, "watch", "--since", "0", "--limit", "5").want(t, exitDone).wantStderr(t, "; continuing")
	if want := "1 a 10 bytes\n2 x/b 12 bytes\n3 c 10 bytes\n4 x/d 12 bytes\n5 e 10 bytes\n"; r.stdout != want {
		t.Errorf("%q, want %q", r.stdout, want)
	}
	r = f.command(t, nil, "watch", "x/", "--since", "2", "--limit", "1", "--values").want(t, exitDone)
	if want := "4 x/d 12 bytes value of x/d\n"; r.stdout != want {
		t.Errorf("%q, want %q", r.stdout, want)
	}
}

func TestWatch_JSON(t *testing.T) {
	f := newFakeAPI(t)
	f.set("a", []byte("\xff"))
	f.set("b", []byte("text"))
	r := f.command(t, nil, "watch", "--since", "0", "--limit", "2", "--json", "--values").want(t, exitDone)
	var got []string
	for line := range strings.Lines(r.stdout) {
		var c api.Change
		must(t, json.Unmarshal([]byte(line), &c))
		value, _, err := c.Bytes()
		must(t, err)
		got = append(got, c.Key+"="+string(value))
	}
	if strings.Join(got, " ") != "a=\xff b=text" {
		t.Errorf("%q", got)
	}
	f.command(t, nil, "watch", "--since", "0", "--limit", "1", "--values").want(t, exitDone).wantStdout(t, "base64:/w==")
}

// firstWrite signals its first write.
type firstWrite struct {
	io.Writer
	wrote func()
}

func (w firstWrite) Write(p []byte) (int, error) {
	defer w.wrote()
	return w.Writer.Write(p)
}

// Without --since watch starts now, and a signal ends it with exit code 0.
func TestWatch_NowUntilStopped(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("old1", "old2", "new")
	f.locked(func() { f.members = api.Members{Members: []api.Member{{Revision: 1}, {Revision: 2}}} })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout, stderr strings.Builder
	env := map[string]string{"ONCEKV_ENDPOINTS": f.URL}
	code := run(ctx, []string{"watch"}, nil, firstWrite{&stdout, stop}, &stderr, func(name string) string { return env[name] })
	if code != exitDone || stdout.String() != "3 new 12 bytes\n" {
		t.Errorf("exit code %d, %q, %s", code, stdout.String(), stderr.String())
	}
}

const (
	watchedHistory = "00112233445566778899aabbccddeeff"
	forkedHistory  = "ffeeddccbbaa99887766554433221100"
)

// --since takes the position that --json shows.
func TestWatch_Position(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("a", "b", "c")
	f.locked(func() { f.of.ID = watchedHistory })
	r := f.command(t, nil, "watch", "--since", "0", "--limit", "2", "--json").want(t, exitDone)
	var last struct{ Key, Position string }
	for line := range strings.Lines(r.stdout) {
		must(t, json.Unmarshal([]byte(line), &last))
	}
	if last.Key != "b" || last.Position != "2."+watchedHistory {
		t.Errorf("%+v", last)
	}
	f.command(t, nil, "watch", "--since", last.Position, "--limit", "1").want(t, exitDone).wantStdout(t, "3 c ")
	f.command(t, nil, "watch", "--since", "2", "--limit", "1").want(t, exitDone).wantStdout(t, "3 c ")
}

// watch ends where the history changed, with its own exit code, and says which position to
// continue from.
func TestWatch_HistoryChanged(t *testing.T) {
	f := newFakeAPI(t)
	f.fill("a", "b", "c")
	f.locked(func() {
		f.of = api.History{ID: forkedHistory, Parents: []api.Origin{{ID: watchedHistory, Revision: 2, Head: "aa"}}}
	})
	changed := "the history is " + forkedHistory + " now, no longer "
	for since, want := range map[string]string{
		"1." + watchedHistory:          changed + watchedHistory + "\nEverything that was shown still exists. To continue: --since 1." + forkedHistory,
		"3." + watchedHistory:          changed + watchedHistory + "\nWhat was shown up to revision 2 still exists; what was shown after it may not. To continue: --since 2." + forkedHistory,
		"3." + strings.Repeat("0", 32): changed + strings.Repeat("0", 32) + "\nNothing that was shown before may exist now. To read the new history from its beginning: --since 0." + forkedHistory,
		"7":                            "history " + forkedHistory + " ends at revision 3, before revision 7\nNothing that was shown before may exist now. To read the new history from its beginning: --since 0." + forkedHistory,
	} {
		r := f.command(t, nil, "watch", "--since", since, "--limit", "1").want(t, exitHistory)
		if r.stdout != "" || r.stderr != "oncekv: "+want+"\n" {
			t.Errorf("--since %s: standard output: %s\nstandard error: %s", since, r.stdout, r.stderr)
		}
	}

	// The same within a stream: it breaks off after each change.
	f.locked(func() { f.of, f.history = api.History{ID: watchedHistory}, 1 })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stdout, stderr strings.Builder
	fork := func() { f.locked(func() { f.of.ID = forkedHistory }) }
	env := map[string]string{"ONCEKV_ENDPOINTS": f.URL}
	code := run(ctx, []string{"watch", "--since", "0"}, nil, firstWrite{&stdout, fork}, &stderr, func(name string) string { return env[name] })
	if code != exitHistory || stdout.String() != "1 a 10 bytes\n" {
		t.Errorf("exit code %d, %q, %s", code, stdout.String(), stderr.String())
	}
}
