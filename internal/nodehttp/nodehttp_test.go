package nodehttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func newClient(t *testing.T, o Options) *http.Client {
	t.Helper()
	c := NewClient(o)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestClient_FollowsNoRedirect(t *testing.T) {
	t.Parallel()
	followed := make(chan string, 10)
	target := serve(t, func(_ http.ResponseWriter, r *http.Request) { followed <- r.URL.Path })
	c := newClient(t, Options{})
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL+"/secret", status)
		})
		var into any
		var got *StatusError
		if err := GetJSON(context.Background(), c, srv.URL, 1<<10, &into); !errors.As(err, &got) || got.Status != status {
			t.Errorf("a redirect with %d ends in %v", status, err)
		}
	}
	select {
	case path := <-followed:
		t.Errorf("a redirect to %s was followed", path)
	default:
	}
}

func TestTransport_UsesNoProxy(t *testing.T) {
	t.Parallel()
	if NewTransport(Options{}).Proxy != nil {
		t.Error("the transport goes by the environment's proxy")
	}
}

// The name is not looked up here, as a resolver would answer it: what counts is
// the address of the connection.
func TestDialer_LinkLocal_IsRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"169.254.169.254:80", "[fe80::1]:80", "[::ffff:169.254.169.254]:80", "0.0.0.0:80", "[::]:80", "224.0.0.1:80", "255.255.255.255:80", "[fd00:ec2::254]:80"} {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		conn, err := newDialer(Options{}).dial(ctx, "tcp", address)
		cancel()
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "nodes do not connect to") {
			t.Errorf("dial %s: %v", address, err)
		}
	}
}

func TestDialer_Places_AreBoundedAndForgotten(t *testing.T) {
	t.Parallel()
	d := newDialer(Options{DialsMax: 1})
	leave, err := d.enter(context.Background(), "a:1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.enter(ctx, "a:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second place was given: %v", err)
	}
	other, err := d.enter(ctx, "b:1")
	if err != nil && !errors.Is(err, context.Canceled) { // select is fair
		t.Error(err)
	}
	if err == nil {
		other()
	}
	leave()
	if len(d.slots) != 0 {
		t.Errorf("%d addresses are remembered that nobody dials", len(d.slots))
	}
}

func TestStallTimeout_EndsASilentStream(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-end
	})
	defer close(end)
	resp, err := newClient(t, Options{StallTimeout: 50 * time.Millisecond, IdlePerHost: -1}).Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil || Reason(err) != "no answer in time" {
		t.Errorf("a silent stream ends with %v", err)
	}
}

func TestGetJSON_Bounds(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"name":%q}`, strings.Repeat("secret", 1000))
	})
	var into struct {
		Name string `json:"name"`
	}
	c := newClient(t, Options{})
	if err := GetJSON(context.Background(), c, srv.URL, 100, &into); !errors.Is(err, ErrAnswer) || strings.Contains(err.Error(), "secret") {
		t.Errorf("an answer that is too large: %v", err)
	}
	if err := GetJSON(context.Background(), c, srv.URL, 10_000, &into); err != nil || len(into.Name) != 6000 {
		t.Errorf("%v, %d bytes", err, len(into.Name))
	}
}

func TestReason_SaysTheSameForTheSame(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	closing := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	page := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<title>secret</title>") })
	missing := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret", http.StatusNotFound) })
	silentServer := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for url, want := range map[string]string{
		nobody:           syscall.ECONNREFUSED.Error(),
		closing.URL:      "it closes the connection without an answer",
		page.URL:         "gives an answer that no oncekv node gives",
		missing.URL:      "answers with HTTP status 404 Not Found",
		silentServer.URL: "no answer in time",
	} {
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
			var into any
			err := GetJSON(ctx, newClient(t, Options{}), url, 1<<10, &into)
			cancel()
			if got := Reason(err); got != want {
				t.Errorf("%v: %q, want %q", err, got, want)
			}
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	answers := func(path, body string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasPrefix(r.URL.Path, "/503/"):
				http.Error(w, "secret", http.StatusServiceUnavailable)
				return
			case strings.HasPrefix(r.URL.Path, "/421/"):
				http.Error(w, "secret", http.StatusMisdirectedRequest)
				return
			case r.URL.Path != path:
				http.NotFound(w, r)
				return
			}
			fmt.Fprint(w, body)
		}).URL
	}
	for url, want := range map[string]Who{
		answers(IdentityPath, `{"name":"n1","id":"00a1","client_url":"http://10.0.0.1:11000"}`): {Kind: PeerPort, Name: "n1", ClientURL: "http://10.0.0.1:11000"},
		answers(IdentityPath, `{"name":"\u001b[2J","id":"00a1","client_url":"javascript:1"}`):   {Kind: PeerPort},
		answers("/stats", `{"name":"n1","id":"00a1","role":"follower"}`):                        {Kind: Database, Name: "n1"},
		answers("/stats", `{"name":"c1","role":"cache"}`):                                       {Kind: Cache, Name: "c1"},
		answers("/stats", `{"name":"admin","role":"admin"}`):                                    {Kind: Admin},
		answers("/stats", `{}`):        {Kind: Stranger},
		answers("/stats", `<html>`):    {Kind: Stranger, Why: "gives an answer that no oncekv node gives"},
		answers("/busy", "") + "/503":  {Why: "answers with HTTP status 503 Service Unavailable"},
		answers("/named", "") + "/421": {Why: "answers with HTTP status 421 Misdirected Request: the node does not answer to the name in this URL; use a name that it advertises, or add this one to its --allowed-hosts"},
		answers("/", "welcome"):        {Kind: Stranger, Why: "answers with HTTP status 404 Not Found"},
		"http://127.0.0.1:1":           {Kind: Nobody, Why: "connection refused"},
	} {
		if got := Identify(context.Background(), newClient(t, Options{}), url); got != want {
			t.Errorf("%s: %+v, want %+v", url, got, want)
		}
	}
}
