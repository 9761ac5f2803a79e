package httpapi

import "testing"

// plainLines are lines that plainPut is there for.
var plainLines = []string{
	`{"key":"a","value":"b"}`,
	` { "key" : "a" , "value" : "" } `,
	`{"value":"QUJD","encoding":"base64","key":"bin"}`,
	`{"key":"ключ/日本","value":"значение","content_type":" text/plain; charset=utf-8 "}`,
	`{"key":"k","value":"v","encoding":"","content_type":""}`,
	`{"key":"k","content_type":"text/css","value":"v"}`,
}

// oddLines are lines that it must leave to others.
var oddLines = []string{
	`{"key":"esc\"a\\\/ped","value":"tab\tnew\nline\r\b\f"}`,
	`{"key_base64":"/w==","value":"x","content_type":"text/css"}`,
	``, `{}`, `[]`, `{"key":"a"}`, `{"value":"a"}`, `{"key":"","value":"a"}`, `{"key":"a","value":"b"}x`, `{"key":"a","value":"b"`,
	`{"key":"a","key":"a","value":"b"}`, `{"key":"a","key_base64":"YQ==","value":"b"}`, `{"Key":"a","value":"b"}`, `{"key":"a","value":1}`,
	`{"key":"a","value":null}`, `{"key":"a","value":"b",}`, `{"key":"a\u0041","value":"b"}`, `{"key":"a","value":"\ud800"}`,
	`{"key":"a","value":"QUJ","encoding":"base64"}`, `{"key":"a","value":"QU\nJD","encoding":"base64"}`, `{"key":"a","value":"QUJE","encoding":"hex"}`,
	"{\"key\":\"a\",\"value\":\"\x01\"}", "{\"key\":\"a\",\"value\":\"\xff\"}", `{"key":"a","value":"b","content_type":"no type"}`, `{"key":"a\x","value":"b"}`,
	`{"key":"YQA=","value":"b","encoding":"x"}`, `{"key_base64":"YQA=","value":"b"}`, `{"key":"a","value":"b","more":"c"}`, `{"key" "a","value":"b"}`,
}

func TestPlainPut(t *testing.T) {
	t.Parallel()
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
