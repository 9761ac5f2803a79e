package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

// plainLines are lines that plainPut is there for.
var plainLines = []string{
	`{"key":"a","value":"b"}`,
	` { "key" : "a" , "value" : "" } `,
	`{"value":"QUJD","encoding":"base64","key":"bin"}`,
	`{"key_base64":"/w==","value":"x","content_type":"text/css"}`,
	`{"key":"esc\"a\\\/ped","value":"tab\tnew\nline\r\b\f"}`,
	`{"key":"ключ/日本","value":"значение","content_type":" text/plain; charset=utf-8 "}`,
	`{"key":"k","value":"v","encoding":"","content_type":""}`,
}

// oddLines are lines that it must leave to others.
var oddLines = []string{
	``, `{}`, `[]`, `{"key":"a"}`, `{"value":"a"}`, `{"key":"","value":"a"}`, `{"key":"a","value":"b"}x`, `{"key":"a","value":"b"`,
	`{"key":"a","key":"a","value":"b"}`, `{"key":"a","key_base64":"YQ==","value":"b"}`, `{"Key":"a","value":"b"}`, `{"key":"a","value":1}`,
	`{"key":"a","value":null}`, `{"key":"a","value":"b",}`, `{"key":"a\u0041","value":"b"}`, `{"key":"a","value":"\ud800"}`,
	`{"key":"a","value":"QUJ","encoding":"base64"}`, `{"key":"a","value":"QU\nJD","encoding":"base64"}`, `{"key":"a","value":"QUJE","encoding":"hex"}`,
	"{\"key\":\"a\",\"value\":\"\x01\"}", "{\"key\":\"a\",\"value\":\"\xff\"}", `{"key":"a","value":"b","content_type":"no type"}`, `{"key":"a\x","value":"b"}`,
	`{"key":"YQA=","value":"b","encoding":"x"}`, `{"key_base64":"YQA=","value":"b"}`, `{"key":"a","value":"b","more":"c"}`, `{"key" "a","value":"b"}`,
}

func TestPlainPut(t *testing.T) {
	for _, line := range plainLines {
		if !samePut(t, []byte(line)) {
			t.Errorf("%s is left to the slow way", line)
		}
	}
	for _, line := range oddLines {
		if samePut(t, []byte(line)) {
			t.Errorf("%s is taken", line)
		}
	}
}

func FuzzPlainPut(f *testing.F) {
	for _, line := range append(plainLines, oddLines...) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) { samePut(t, line) })
}

// samePut reports whether plainPut takes a line. Then ParsePut must take it, and
// mean the same.
func samePut(t *testing.T, line []byte) bool {
	t.Helper()
	put, ok := plainPut(line)
	if !ok {
		return false
	}
	item, err := ParsePut(line)
	if err != nil {
		t.Fatalf("%q is taken, but %v", line, err)
	}
	if item.Key != string(put.Key) || string(item.Value) != string(put.Value) || item.ContentType != put.ContentType {
		t.Fatalf("%q is %+v, not %+v", line, put, item)
	}
	return true
}

// TestAppendPlainResult: what it writes is what encoding/json would.
func TestAppendPlainResult(t *testing.T) {
	size := int64(0)
	for r, plain := range map[api.BatchResult]bool{
		{Key: "a<b>&c/ ~", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:       true,
		{Key: "a", Status: api.BatchUnchanged, Revision: 1 << 60, SHA256: "ab", Size: &size}:       true,
		{Key: "ключ", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:            false,
		{Key: `a"b`, Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:             false,
		{KeyBase64: "/w==", Status: api.BatchCreated, Revision: 1, SHA256: "ab", Size: &size}:      false,
		{Key: "a", Status: api.BatchConflict, Revision: 1, SHA256: "ab", Size: &size, Detail: "x"}: false,
		{Key: "a", Status: api.BatchFailed, Detail: "x"}:                                           false,
	} {
		line, ok := appendPlainResult(nil, &r)
		if ok != plain {
			t.Errorf("%+v: plain %v, want %v", r, ok, plain)
		}
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(r); err != nil || ok && string(line) != want.String() {
			t.Errorf("%q, want %q %v", line, want.String(), err)
		}
	}
}

// BenchmarkParseLine compares the two ways.
func BenchmarkParseLine(b *testing.B) {
	value := make([]byte, 256)
	for i := range value {
		value[i] = byte(i)
	}
	for name, d := range map[string]api.PutDocument{
		"text":   {Key: new("0123456789abcdef0123456789abcdef"), Value: new(fmt.Sprintf("%256d", 7))},
		"base64": {Key: new("0123456789abcdef0123456789abcdef"), Value: new(strictBase64.EncodeToString(value)), Encoding: api.EncodingBase64},
	} {
		line, err := json.Marshal(d)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/plain", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := plainPut(line); !ok {
					b.Fatal("refused")
				}
			}
		})
		b.Run(name+"/strict", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParsePut(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
