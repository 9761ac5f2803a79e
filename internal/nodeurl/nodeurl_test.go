package nodeurl

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://127.0.0.1:11000":                   "http://127.0.0.1:11000",
		"http://127.0.0.1:11000/":                  "http://127.0.0.1:11000",
		"HTTP://Node-1.Example:011000//":           "http://node-1.example:11000",
		"http://node_1:1":                          "http://node_1:1",
		"http://n1.nodes.svc.:12000":               "http://n1.nodes.svc.:12000",
		"http://10.0.0.1":                          "http://10.0.0.1",
		"http://[::1]:1":                           "http://[::1]:1",
		"http://[FD00::0:1]:65535":                 "http://[fd00::1]:65535",
		"http://[64:ff9b::10.0.0.1]:1":             "http://[64:ff9b::a00:1]:1",
		"http://7.example:1":                       "http://7.example:1",
		"http://" + strings.Repeat("a", 63) + ":1": "http://" + strings.Repeat("a", 63) + ":1",
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
		if got, err := Parse(want); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v; the form that is compared is not kept", want, got, err)
		}
	}
}

// refused are URLs of no node, and a word of the sentence about each.
var refused = map[string]string{
	"":                                           "http://",
	"n1:11000":                                   "http://",
	"10.0.0.1:11000":                             "not the URL",
	"//10.0.0.1:11000":                           "http://",
	"http:10.0.0.1:11000":                        "http://",
	"https://10.0.0.1:11000":                     "not https",
	"ftp://10.0.0.1:11000":                       "http://",
	"unix:///run/x":                              "http://",
	"http://":                                    "no host",
	"http://:11000":                              "no host",
	"http:///stats":                              "no host",
	"http://h:":                                  "no port",
	"http://h:0":                                 "port",
	"http://h:65536":                             "port",
	"http://h:99999999999999999999":              "port",
	"http://h:http":                              "port",
	"http://h:-1":                                "port",
	"http://h:1:2":                               "not the URL",
	"http://h:1/path":                            "path",
	"http://h:1/..":                              "path",
	"http://h:1?":                                "query",
	"http://h:1?a=b":                             "query",
	"http://h:1#f":                               "fragment",
	"http://h:1#":                                "fragment",
	"http://h:1/#":                               "fragment",
	"http://h#":                                  "fragment",
	"http://h:1?#":                               "query",
	"http://user:secret@h:1#":                    "user information",
	"http://user@h:1":                            "user information",
	"http://user:secret@h:1":                     "user information",
	"http://@h:1":                                "user information",
	"http://h :1":                                "not the URL",
	" http://h:1":                                "not the URL",
	"http://h:1\n":                               "not the URL",
	"http://h\x00:1":                             "not the URL",
	"http://h,i:1":                               "neither a name",
	"http://-h:1":                                "neither a name",
	"http://h..i:1":                              "neither a name",
	"http://%68:1":                               "not the URL",
	"http://h%c3%a9:1":                           "neither a name",
	"http://hé:1":                                "neither a name",
	"http://[::1:1":                              "not the URL",
	"http://::1:1":                               "not the URL",
	"http://[h]:1":                               "not the URL",
	"http://169.254.169.254:80":                  "link-local",
	"http://169.254.0.1:80":                      "link-local",
	"http://[fe80::1]:80":                        "link-local",
	"http://[febf::1]:80":                        "link-local",
	"http://[fe80::1%25eth0]:80":                 "zone",
	"http://[::ffff:169.254.169.254]:80":         "link-local",
	"http://[::ffff:a9fe:a9fe]:80":               "link-local",
	"http://[::169.254.169.254]:80":              "link-local",
	"http://[64:ff9b::169.254.169.254]:80":       "link-local",
	"http://[2002:a9fe:a9fe::1]:80":              "link-local",
	"http://[fd00:ec2::254]:80":                  "link-local",
	"http://2852039166:80":                       "number",
	"http://2852039166.:80":                      "number",
	"http://0xa9fea9fe:80":                       "number",
	"http://0xA9.0xFE.0xA9.0xFE:80":              "number",
	"http://0251.0376.0251.0376:80":              "number",
	"http://169.254.43518:80":                    "number",
	"http://169.254.169.0xfe:80":                 "number",
	"http://1.2.3.4.5:80":                        "number",
	"http://127.1:80":                            "number",
	"http://169.254.169.254.:80":                 "number",
	"http://0.0.0.0:80":                          "every interface",
	"http://0.1.2.3:80":                          "every interface",
	"http://[::]:80":                             "every interface",
	"http://[::ffff:0.0.0.0]:80":                 "every interface",
	"http://224.0.0.1:80":                        "multicast",
	"http://[ff02::1]:80":                        "multicast",
	"http://255.255.255.255:80":                  "multicast",
	"http://" + strings.Repeat("a", 64):          "neither a name",
	"http://" + strings.Repeat("a.", 200):        "bytes",
	"http://h:1/" + strings.Repeat("a", 2000):    "path",
	"http://" + strings.Repeat("a", urlBytesMax): "at most",
}

func TestParse_Refuses(t *testing.T) {
	t.Parallel()
	for in, word := range refused {
		for name, check := range map[string]func(string) (string, error){"Parse": Parse, "WithPort": WithPort, "Endpoint": Endpoint} {
			if name == "Endpoint" && strings.HasPrefix(in, "https:") {
				continue
			}
			got, err := check(in)
			if err == nil {
				t.Errorf("%s(%q) = %q, which is no node's URL", name, in, got)
				continue
			}
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s(%q): %v; want a sentence with %q", name, in, err, word)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the sentence shows a password: %v", err)
			}
			if len(err.Error()) > 1024 {
				t.Errorf("the sentence about a long URL has %d bytes", len(err.Error()))
			}
		}
	}
}

func TestWithPort_NeedsOne(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"http://h", "http://h/", "http://[::1]"} {
		if got, err := WithPort(in); err == nil || !strings.Contains(err.Error(), "no port") {
			t.Errorf("WithPort(%q) = %q, %v", in, got, err)
		}
	}
	if got, err := WithPort("http://H:1/"); err != nil || got != "http://h:1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEndpoint_TakesHTTPS(t *testing.T) {
	t.Parallel()
	if got, err := Endpoint("https://KV.example/"); err != nil || got != "https://kv.example" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSplitListen(t *testing.T) {
	t.Parallel()
	for in, wildcard := range map[string]bool{
		"127.0.0.1:0": false, "localhost:11000": false, "[::1]:1": false, "[fe80::1%eth0]:1": false,
		":1": true, "0.0.0.0:1": true, "[::]:1": true, "[::ffff:0.0.0.0]:1": true,
	} {
		host, _, err := SplitListen(in)
		if err != nil || Wildcard(host) != wildcard {
			t.Errorf("SplitListen(%q): host %q, %v; wildcard %v", in, host, err, wildcard)
		}
	}
	for _, in := range []string{"", "localhost", "11000", "::1:1", "h:http", ":http", "h:65536", "h:-1", "h: 1", "h:", "two words:1", "a,b:1", "http://h:1", "127.1:1"} {
		if _, _, err := SplitListen(in); err == nil || !strings.Contains(err.Error(), "127.0.0.1:11000") {
			t.Errorf("SplitListen(%q): %v; want a sentence that says how", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for in := range refused {
		f.Add(in)
	}
	f.Add("http://h:1")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Parse(in)
		if err != nil {
			return
		}
		if again, err := Parse(got); err != nil || again != got {
			t.Errorf("Parse(%q) = %q, which becomes %q, %v", in, got, again, err)
		}
	})
}
