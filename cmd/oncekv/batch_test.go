package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// batchInput has a line for every outcome, if "taken" is already set to something else.
const batchInput = `{"key":"a","value":"1"}
{"value":"\u0000","key":"a b","content_type":"text/x-b","meta":{"source":"ci"}}

{"key":"a","value":"1"}
{"key":"taken","value":"mine"}
{"key":"c","value":"1","Value":"2"}
{"key_base64":"/w==","value":"/w==","encoding":"base64"}
{"key":"d","value":"too large"}
{"key":"last","value":""}`

func newBatchAPI(t *testing.T) *fakeAPI {
	f := newFakeAPI(t)
	f.set("taken", []byte("first"))
	return f
}

func TestBatch_Fates(t *testing.T) {
	f := newBatchAPI(t)
	r := f.command(t, strings.NewReader(batchInput), "batch").want(t, exitConflict)
	want := `line 5: conflict: taken: the key is set to other bytes
line 6: invalid: the JSON document has the unknown field "Value"; the fields are "content_type", "encoding", "key", "key_base64", "meta", "value", in exactly this case
line 8: invalid: d: too large for the test
oncekv: some keys are set to other bytes; they were not changed
`
	if r.stderr != want {
		t.Errorf("standard error:\n%swant:\n%s", r.stderr, want)
	}
	for _, count := range []string{"created 4", "unchanged 1", "conflict 1", "invalid 2", "failed 0", "8 lines of standard input"} {
		if !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), count) {
			t.Errorf("the summary does not say %q:\n%s", count, r.stdout)
		}
	}
	for key, want := range map[string]string{"a": "1", "a b": "\x00", "taken": "first", "\xff": "\xff", "last": ""} {
		if v, ok := f.value(key); !ok || string(v.body) != want {
			t.Errorf("key %q: set %t, %q, want %q", key, ok, v.body, want)
		}
	}
	if v, _ := f.value("a b"); v.contentType != "text/x-b" || len(v.meta) != 1 || v.meta["source"] != "ci" {
		t.Errorf("content type %s, metadata %v", v.contentType, v.meta)
	}
	if v, _ := f.value("a"); v.contentType != "text/plain; charset=utf-8" {
		t.Errorf("content type without one given: %s", v.contentType)
	}
}

// batchResults decodes the output of --json.
func batchResults(t *testing.T, stdout string) []api.BatchResult {
	t.Helper()
	var all []api.BatchResult
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	for {
		var r api.BatchResult
		err := d.Decode(&r)
		if err == io.EOF {
			return all
		}
		must(t, err)
		all = append(all, r)
	}
}

func TestBatch_JSON(t *testing.T) {
	f := newBatchAPI(t)
	path := filepath.Join(t.TempDir(), "puts.ndjson")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(batchInput, "\n", "\r\n")), 0o600))
	r := f.command(t, nil, "batch", path, "--json").want(t, exitConflict)
	var got []string
	for _, b := range batchResults(t, r.stdout) {
		size := int64(-1)
		if b.Size != nil {
			size = *b.Size
		}
		got = append(got, fmt.Sprintf("%s%s %s %v %d %s", b.Key, b.KeyBase64, b.Status, b.Revision > 0, size, b.Detail))
	}
	want := []string{
		"a created true 1 ",
		"a b created true 1 ",
		"a unchanged true 1 ",
		"taken conflict true 5 the key is set to other bytes",
		` invalid false -1 line 6: the JSON document has the unknown field "Value"; the fields are "content_type", "encoding", "key", "key_base64", "meta", "value", in exactly this case`,
		"/w== created true 1 ",
		"d invalid false -1 line 8: too large for the test",
		"last created true 0 ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("results:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestBatch_Again(t *testing.T) {
	f := newFakeAPI(t)
	var lines strings.Builder
	for i := range 3 * notesMax {
		fmt.Fprintf(&lines, "{\"key\":\"k%d\",\"value\":\"v%d\"}\n", i, i)
	}
	f.command(t, strings.NewReader(lines.String()), "batch", "-").want(t, exitDone).wantStdout(t, fmt.Sprint(3*notesMax, " lines of"))
	f.command(t, strings.NewReader(lines.String()), "batch").want(t, exitDone).wantStdout(t, "Nothing changed: every line of standard input")
	f.command(t, strings.NewReader("\n \n"), "batch").want(t, exitDone).wantStdout(t, "0 lines of")
}

// A batch handles more invalid lines than any buffer holds, without any result.
func TestBatch_OnlyInvalid(t *testing.T) {
	f := newFakeAPI(t)
	r := f.command(t, strings.NewReader(strings.Repeat("{}\n", 3*notesMax)), "batch", "--json").want(t, exitFailed)
	if n := len(batchResults(t, r.stdout)); n != 3*notesMax || f.putCount() != 0 {
		t.Fatalf("%d results, %d puts", n, f.putCount())
	}
	r.wantStderr(t, fmt.Sprint(3*notesMax, " invalid lines"))
}

func TestBatch_LongLine(t *testing.T) {
	f := newFakeAPI(t)
	line := func(bytes int) string {
		const frame = `{"key":"k","value":""}`
		return fmt.Sprintf(`{"key":"k","value":"%s"}`, strings.Repeat("v", bytes-len(frame)))
	}
	input := line(batchLineBytesMax+1) + "\n" + line(3*batchLineBytesMax) + "\n" + line(batchLineBytesMax) + "\n" + `{"key":"l","value":"v"}`
	r := f.command(t, strings.NewReader(input), "batch").want(t, exitFailed)
	r.wantStderr(t, "line 1: invalid: the line is longer than 8388608 bytes", "line 2: invalid: ", "2 invalid lines")
	if f.body("l") != "v" || len(f.body("k")) != batchLineBytesMax-22 {
		t.Fatalf("the lines after it: %q and %d bytes", f.body("l"), len(f.body("k")))
	}
}

// If a stream breaks off, the batch resumes, and the output does not show it.
func TestBatch_Broken(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.batch = 10 })
	var lines strings.Builder
	for i := range 35 {
		fmt.Fprintf(&lines, "{\"key\":\"k%d\",\"value\":\"v\"}\n", i)
	}
	r := f.command(t, strings.NewReader(lines.String()), "batch", "--json").want(t, exitDone)
	for i, b := range batchResults(t, r.stdout) {
		if b.Key != fmt.Sprint("k", i) {
			t.Fatalf("result %d is for %s", i, b.Key)
		}
	}
}

func TestBatch_NotDone(t *testing.T) {
	const input = "\n{\"key\":\"a\",\"value\":\"1\"}\n"
	for _, c := range []struct {
		refuse, code int
		kind         string
		counted      string
	}{
		{http.StatusServiceUnavailable, exitFailed, api.ProblemUnavailable, "failed  1"},
		{http.StatusGatewayTimeout, exitUnknown, api.ProblemOutcomeUnknown, "unknown  1"},
	} {
		f := newFakeAPI(t)
		f.locked(func() { f.refuse = c.refuse })
		r := f.command(t, strings.NewReader(input), "batch", "--timeout", "20ms").want(t, c.code)
		r.wantStderr(t, "the batch is not complete: line 2 and those after it have no result").wantStdout(t, c.counted)
		r = f.command(t, strings.NewReader(input), "batch", "--timeout", "20ms", "--json").want(t, c.code)
		all := batchResults(t, r.stdout)
		if len(all) != 1 || all[0].Status != api.BatchError || all[0].Line != 2 || all[0].Type != c.kind {
			t.Errorf("results: %s", r.stdout)
		}
	}
}

func TestBatch_Input(t *testing.T) {
	f := newFakeAPI(t)
	f.command(t, nil, "batch").want(t, exitUsage).wantStderr(t, "no input", "standard input")
	f.command(t, nil, "batch", filepath.Join(t.TempDir(), "absent")).want(t, exitFailed).wantStderr(t, "absent")
	f.command(t, nil, "batch", t.TempDir()).want(t, exitFailed).wantStderr(t, "is a directory")
	broken := io.MultiReader(strings.NewReader("{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":\"1\"}"), iotest.ErrReader(io.ErrUnexpectedEOF))
	f.command(t, broken, "batch").want(t, exitFailed).wantStderr(t, "read standard input after line 1: unexpected EOF")
	if _, found := f.value("b"); f.body("a") != "1" || found {
		t.Fatal("the line that broke off was put, or the one before it was not")
	}
}

// Results appear while the input is still open, and a silent input does not keep the command
// from ending.
func TestBatch_Interactive(t *testing.T) {
	f := newFakeAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	input, lines := io.Pipe()
	results, stdout := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"batch", "--json", "--endpoints", f.URL}, input, stdout, io.Discard, func(string) string { return "" })
		stdout.Close()
	}()
	scan := bufio.NewScanner(results)
	for i := range 5 {
		fmt.Fprintf(lines, "{\"key\":\"k%d\",\"value\":\"v\"}\n{}\n", i)
		for _, want := range []string{`"created"`, `"invalid"`} {
			if !scan.Scan() || !strings.Contains(scan.Text(), want) {
				t.Fatalf("result %d: %s", i, scan.Text())
			}
		}
	}
	cancel()
	select {
	case c := <-code:
		if c != exitFailed {
			t.Fatalf("exit code %d", c)
		}
	case <-time.After(time.Minute):
		t.Fatal("the command does not end while its input is open")
	}
}

// endlessPutter decides everything until its consumer stops.
type endlessPutter struct{ taken int }

func (p *endlessPutter) PutAll(_ context.Context, items iter.Seq[client.PutItem]) iter.Seq2[client.PutResult, error] {
	return func(yield func(client.PutResult, error) bool) {
		for item := range items {
			p.taken++
			if !yield(client.PutResult{Index: p.taken - 1, Key: item.Key, Status: api.BatchCreated}, nil) {
				return
			}
		}
	}
}

type repeated string

func (r repeated) Read(p []byte) (n int, err error) {
	for n+len(r) <= len(p) {
		n += copy(p[n:], r)
	}
	return n, nil
}

// If nobody reads the results, the batch ends, however long its input is.
func TestBatchRun_OutputGone(t *testing.T) {
	results, stdout := io.Pipe()
	results.CloseWithError(io.ErrClosedPipe)
	b := &batchRun{client: &endlessPutter{}, in: repeated("{\"key\":\"a\",\"value\":\"1\"}\n"), name: "test", out: (&app{json: true, stdout: stdout}).batchOutput()}
	if err := b.run(t.Context()); err == nil || !strings.Contains(err.Error(), "closed pipe") {
		t.Fatalf("error %v", err)
	}
}
