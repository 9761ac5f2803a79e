package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func (f *fakeAPI) set(key string, body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.values[key] = fakeValue{body: body, contentType: "text/x-test", revision: len(f.values) + 1}
}

func TestGet_Bytes(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("raw \x00\xff bytes, no newline"))
	r := f.command(t, nil, "get", "k").want(t, exitDone)
	if r.stdout != "raw \x00\xff bytes, no newline" || r.stderr != "" {
		t.Fatalf("%q, %q", r.stdout, r.stderr)
	}
}

func TestGet_Absent(t *testing.T) {
	f := newFakeAPI(t)
	r := f.command(t, nil, "get", "k").want(t, exitNotFound).wantStderr(t, `"k" is not set`)
	if r.stdout != "" {
		t.Fatalf("standard output: %q", r.stdout)
	}
}

func TestGet_File(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", []byte("value"))
	path := filepath.Join(t.TempDir(), "out")
	must(t, os.WriteFile(path, []byte("something longer"), 0o600))
	r := f.command(t, nil, "get", "k", "-o", path, "--json").want(t, exitDone)
	got, err := os.ReadFile(path)
	must(t, err)
	var record api.Document
	must(t, json.Unmarshal([]byte(r.stdout), &record))
	if string(got) != "value" || record.Size != 5 || record.Value != "" {
		t.Fatalf("file %q, record %+v", got, record)
	}
	if r := f.command(t, nil, "get", "k", "-o", os.DevNull).want(t, exitDone); r.stdout != "" {
		t.Fatalf("standard output: %q", r.stdout)
	}
	if st, err := os.Stat(os.DevNull); err != nil || st.Mode().IsRegular() {
		t.Fatal("the null device was replaced")
	}
	if r := f.command(t, nil, "get", "k", "-o", "-").want(t, exitDone); r.stdout != "value" {
		t.Fatalf("standard output: %q", r.stdout)
	}
}

// get refuses a value that does not match its digest.
func TestGet_WrongBytes(t *testing.T) {
	f := newFakeAPI(t)
	f.set("k", bytes.Repeat([]byte("x"), 100000))
	f.locked(func() { f.corrupt = true })
	dir := t.TempDir()
	f.command(t, nil, "get", "k", "-o", filepath.Join(dir, "out")).want(t, exitFailed).wantStderr(t, "digest")
	left, err := os.ReadDir(dir)
	must(t, err)
	if len(left) != 0 {
		t.Fatalf("%v was left behind", left)
	}
	f.command(t, nil, "get", "k").want(t, exitFailed)
}

func TestGet_JSON(t *testing.T) {
	f := newFakeAPI(t)
	large := bytes.Repeat([]byte("0123456789abcde\n"), textBytesMax/16+1)
	for key, c := range map[string]struct {
		value    []byte
		encoding string
	}{
		"text":   {[]byte("ü <&> \"\n"), ""},
		"binary": {[]byte("\xff\x00"), "base64"},
		"empty":  {nil, ""},
		"large":  {large, "base64"},
	} {
		f.set(key, c.value)
		r := f.command(t, nil, "get", key, "--json").want(t, exitDone)
		var doc api.Document
		must(t, json.Unmarshal([]byte(r.stdout), &doc))
		value := []byte(doc.Value)
		if doc.Encoding == api.EncodingBase64 {
			var err error
			value, err = base64.StdEncoding.DecodeString(doc.Value)
			must(t, err)
		}
		if !bytes.Equal(value, c.value) || doc.Encoding != c.encoding || doc.Key != key || doc.Size != int64(len(c.value)) || doc.ContentType != "text/x-test" {
			t.Errorf("%s: %d bytes, record %+v", key, len(value), doc.Record)
		}
	}
}
