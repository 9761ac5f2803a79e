package httpapi

import (
	"net/url"
	"testing"
)

func TestParseQuery_Table(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		raw  string
		good bool
		a, b string
	}{
		{"", true, "", ""},
		{"a=1", true, "1", ""},
		{"a=1&b=2", true, "1", "2"},
		{"b=2&a=", true, "", "2"},
		{"a", true, "", ""},
		{"a=x=y", true, "x=y", ""},
		{"a=+%2B%20", true, " + ", ""},
		{"%61=%C3%BC%ff", true, "ü\xff", ""},
		{"a=%26%3B%3D", true, "&;=", ""},
		{"a=1&a=1", false, "", ""},
		{"a=1&%61=2", false, "", ""},
		{"a=1;b=2", false, "", ""},
		{";", false, "", ""},
		{"a=1&", false, "", ""},
		{"&a=1", false, "", ""},
		{"a=1&&b=2", false, "", ""},
		{"a=%", false, "", ""},
		{"a=%2", false, "", ""},
		{"a=%zz", false, "", ""},
		{"%zz=1", false, "", ""},
		{"A=1", false, "", ""},
		{"=1", false, "", ""},
		{"c=1", false, "", ""},
	} {
		q, err := parseQuery(tt.raw, "a", "b")
		if (err == nil) != tt.good {
			t.Errorf("%q: error %v, want good=%v", tt.raw, err, tt.good)
			continue
		}
		a, _ := q.lookup("a")
		b, _ := q.lookup("b")
		if err == nil && (a != tt.a || b != tt.b) {
			t.Errorf("%q: a=%q b=%q, want %q and %q", tt.raw, a, b, tt.a, tt.b)
		}
	}
}

// FuzzParseQuery: what is accepted means the same to net/url.
func FuzzParseQuery(f *testing.F) {
	for _, raw := range []string{"a=1&b=2", "a=+%20", "a;b", "%61=1", "a=1&a=2"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw, "a", "b")
		if err != nil {
			return
		}
		values, err := url.ParseQuery(raw)
		if err != nil {
			t.Fatalf("%q is accepted, and net/url says %v", raw, err)
		}
		for name, all := range values {
			if got, given := q.lookup(name); !given || len(all) != 1 || got != all[0] {
				t.Fatalf("%q: %s is %q, net/url has %q", raw, name, got, all)
			}
		}
		if len(q.given) != len(values) {
			t.Fatalf("%q: %v, net/url has %v", raw, q.given, values)
		}
	})
}
