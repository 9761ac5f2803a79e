package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPut_Sources(t *testing.T) {
	f := newFakeAPI(t)
	file := filepath.Join(t.TempDir(), "a.json")
	must(t, os.WriteFile(file, []byte("{}"), 0o600))
	large := strings.Repeat("0123456789", spoolMemoryBytes/5)
	for _, c := range []struct {
		key         string
		args        []string
		input       string
		want        string
		contentType string
	}{
		{"argument", []string{"v"}, "ignored", "v", contentTypeText},
		{"stdin", nil, "from a pipe", "from a pipe", contentTypeDefault},
		{"empty stdin", nil, "", "", contentTypeDefault},
		{"dash", []string{"-"}, "dashed", "dashed", contentTypeDefault},
		{"large stdin", []string{"-"}, large, large, contentTypeDefault},
		{"file", []string{"@" + file}, "", "{}", "application/json"},
		{"file with type", []string{"@" + file, "--content-type", "text/x-mine"}, "", "{}", "text/x-mine"},
		{"literal dash", []string{"--value", "-"}, "", "-", contentTypeText},
		{"literal at", []string{"--value=@x"}, "", "@x", contentTypeText},
		{"literal empty", []string{"--value="}, "ignored", "", contentTypeText},
		{"typed words", []string{"ünïcode\nand lines"}, "", "ünïcode\nand lines", contentTypeText},
		{"typed bytes", []string{"\xff\xfe"}, "", "\xff\xfe", contentTypeDefault},
		{"typed with type", []string{"<p>", "--content-type", "text/html"}, "", "<p>", "text/html"},
		{"a//b/../ü+ %41", []string{"v"}, "", "v", contentTypeText},
	} {
		t.Run(c.key, func(t *testing.T) {
			f.command(t, strings.NewReader(c.input), append([]string{"put", c.key}, c.args...)...).want(t, exitDone).wantStdout(t, "created "+c.key+": revision ")
			got, ok := f.value(c.key)
			if !ok || string(got.body) != c.want || got.contentType != c.contentType {
				t.Fatalf("set %t, %d bytes of %s, want %d of %s", ok, len(got.body), got.contentType, len(c.want), c.contentType)
			}
		})
	}
}

func TestPut_Decisions(t *testing.T) {
	f := newFakeAPI(t)
	f.command(t, nil, "put", "k", "one").want(t, exitDone).wantStdout(t, "created k: revision 1, 3 bytes, sha256 7692c3ad")
	f.command(t, nil, "put", "k", "one").want(t, exitDone).wantStdout(t, "unchanged k: revision 1")
	f.command(t, nil, "put", "k", "two").want(t, exitConflict).wantStderr(t, "other bytes")
	f.command(t, nil, "put", "k", "one", "--if-absent").want(t, exitConflict)
	f.command(t, nil, "put", "mine", "v", "--put-id", "me", "--if-absent").want(t, exitDone).wantStdout(t, "created")
	f.command(t, nil, "put", "mine", "v", "--put-id", "me", "--if-absent").want(t, exitDone).wantStdout(t, "created")
	f.command(t, nil, "put", "mine", "v", "--put-id", "you", "--if-absent").want(t, exitConflict)
}

func TestPut_JSON(t *testing.T) {
	f := newFakeAPI(t)
	for _, c := range []struct {
		value, status string
		code          int
	}{{"one", "created", exitDone}, {"one", "unchanged", exitDone}, {"two", "conflict", exitConflict}} {
		r := f.command(t, nil, "put", "k", c.value, "--json").want(t, c.code)
		var got putResult
		must(t, json.Unmarshal([]byte(r.stdout), &got))
		if got.Key != "k" || got.Status != c.status || got.Revision != 1 || got.Size != 3 || len(got.SHA256) != 64 {
			t.Errorf("%s: %+v", c.status, got)
		}
	}
}

func TestPut_OutcomeUnknown(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.refuse = http.StatusGatewayTimeout })
	f.command(t, nil, "put", "k", "v", "--timeout", "50ms", "--put-id", "me-1").want(t, exitUnknown).wantStderr(t, "--put-id me-1")
}

func TestPut_Unavailable(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() { f.refuse = http.StatusServiceUnavailable })
	f.command(t, nil, "put", "k", "v", "--timeout", "50ms").want(t, exitFailed)
	f.Close()
	f.command(t, nil, "put", "k", "v", "--timeout", "50ms").want(t, exitFailed).wantStderr(t, "unreachable")
}

// Background jobs read the null device. That must not set a key to nothing.
func TestPut_NothingPiped(t *testing.T) {
	f := newFakeAPI(t)
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	f.command(t, null, "put", "k").want(t, exitUsage).wantStderr(t, "@FILE")
	f.command(t, null, "put", "k", "-").want(t, exitDone) // asked for
}

func TestPut_Pipe(t *testing.T) {
	f := newFakeAPI(t)
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	done := make(chan error, 1)
	go func() {
		_, err := io.WriteString(w, "through a pipe")
		w.Close()
		done <- err
	}()
	f.command(t, r, "put", "k").want(t, exitDone)
	must(t, <-done)
	if got := f.body("k"); got != "through a pipe" {
		t.Fatalf("set to %q", got)
	}
}

// A file on standard input is sent from its offset.
func TestPut_RedirectedFile(t *testing.T) {
	f := newFakeAPI(t)
	path := filepath.Join(t.TempDir(), "in")
	must(t, os.WriteFile(path, []byte("head and tail"), 0o600))
	in, err := os.Open(path)
	must(t, err)
	defer in.Close()
	_, err = in.Seek(5, io.SeekStart)
	must(t, err)
	f.command(t, in, "put", "k").want(t, exitDone)
	if got := f.body("k"); got != "and tail" {
		t.Fatalf("set to %q", got)
	}
}

func TestPut_MissingFile(t *testing.T) {
	f := newFakeAPI(t)
	f.command(t, nil, "put", "k", "@/no/such/file").want(t, exitFailed).wantStderr(t, "/no/such/file")
	if f.putCount() != 0 {
		t.Fatal("something was sent")
	}
}

func TestSpool_KeepsEveryByte(t *testing.T) {
	for _, n := range []int{0, 1, spoolMemoryBytes - 1, spoolMemoryBytes, spoolMemoryBytes + 1, 3*spoolMemoryBytes + 5} {
		in := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		value, err := spool(t.Context(), bytes.NewReader(in), "")
		must(t, err)
		if got := sizeOf(value.body); got != int64(n) {
			t.Errorf("size of %d bytes: %d", n, got)
		}
		for range 2 { // a retry reads it again
			got, err := io.ReadAll(value.body)
			must(t, err)
			if !bytes.Equal(got, in) {
				t.Fatalf("%d bytes became %d others", n, len(got))
			}
			_, err = value.body.Seek(0, io.SeekStart)
			must(t, err)
		}
		must(t, value.close())
	}
}
