package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// A node polls the client URLs of members every second. If a stranger's server answers
// there, its answers lead nowhere and are shown to nobody.
func TestDatabase_Watch_FollowsNoRedirect(t *testing.T) {
	c := clustertest.Start(t, 1, 1)
	inner := make(chan string, 100)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inner <- r.URL.String() }))
	defer target.Close()
	asked := make(chan string, 1000)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		http.Redirect(w, r, target.URL+"/latest/meta-data/secret", http.StatusTemporaryRedirect)
	}))
	defer stranger.Close()
	cl := clustertest.Client(t, c.DBs[0].URL())
	joiner := api.AddMember{ID: "a1", Name: "n9", PeerURL: "http://127.0.0.1:1", ClientURL: stranger.URL, Role: api.RoleLearner}
	if _, _, err := cl.AddMember(clustertest.WithTimeout(t), joiner); err != nil {
		t.Fatal(err)
	}
	for watched := 0; watched < 3; {
		if <-asked == "GET /stats" {
			watched++
		}
	}
	// Nor do the cache node's requests, which knows the member by now.
	for i := range 10 {
		fetch(t, fmt.Sprintf("%s/key/absent-%d", c.Caches[0].URL(), i))
		if code, body := fetch(t, c.Caches[0].URL()+"/keys"); code != http.StatusOK || !strings.Contains(body, `"keys"`) {
			t.Errorf("a list through the cache node: %d %s", code, body)
		}
	}
	select {
	case path := <-inner:
		t.Errorf("a redirect was followed to %s", path)
	default:
	}
	for {
		select {
		case request := <-asked:
			if request != "GET /stats" && request != "POST /caches" && request != "GET /oncekv/identity" {
				t.Errorf("the stranger was sent %s", request)
			}
			continue
		default:
		}
		break
	}
}

// A URL that no node can have is refused in a sentence that says how to write one.
func TestDatabase_Members_RefusesURLs(t *testing.T) {
	c := clustertest.Start(t, 1, 0)
	for _, bad := range []string{
		"", "n9:1", "https://10.0.0.9:1", "http://10.0.0.9", "http://u:p@10.0.0.9:1", "http://10.0.0.9:1/x", "http://10.0.0.9:1?x", "http://10.0.0.9:1#x",
		"http://169.254.169.254:80", "http://[::ffff:169.254.169.254]:80", "http://2852039166:80", "http://0xa9fea9fe:80", "http://0251.0376.0251.0376:80",
		"http://[fe80::1]:1", "http://0.0.0.0:1", "http://[::]:1", "http://239.0.0.1:1", "http://h:0", "http://h:70000",
	} {
		for field, body := range map[string]string{
			"peer_url":   fmt.Sprintf(`{"id":"a1","name":"n9","peer_url":%q,"client_url":"http://10.0.0.9:11000"}`, bad),
			"client_url": fmt.Sprintf(`{"id":"a1","name":"n9","peer_url":"http://10.0.0.9:12000","client_url":%q}`, bad),
		} {
			resp, err := http.Post(c.DBs[0].URL()+"/members", "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			err = client.ResponseError(resp)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(err.Error(), field) {
				t.Errorf("%s %q: %s, %v", field, bad, resp.Status, err)
			}
		}
	}
}
