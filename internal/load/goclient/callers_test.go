package goclient_test

import (
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/load"
	"github.com/Focinfi/oncekv/internal/load/goclient"
	"github.com/Focinfi/oncekv/internal/load/wire"
)

// Both callers count the same, at a database node and at a cache node.
func TestCallers_AgainstNodes(t *testing.T) {
	c := clustertest.Start(t, 1, 1)
	ways := map[string]func(url string) (load.Caller, error){
		"wire": func(url string) (load.Caller, error) { return wire.New(url, time.Minute) },
		"goclient": func(url string) (load.Caller, error) {
			return goclient.New(clustertest.Client(t, url)), nil
		},
	}
	for where, url := range map[string]string{"database": c.DBs[0].URL(), "cache": c.Caches[0].URL()} {
		for way, open := range ways {
			t.Run(where+" "+way, func(t *testing.T) {
				caller, err := open(url)
				if err != nil {
					t.Fatal(err)
				}
				defer caller.Close()
				suite(t, caller, where+"/ä//"+way+"/")
				suite(t, caller, where+"/"+way+"/")
			})
		}
	}
}

// suite sets keys of the prefix in every way there is.
func suite(t *testing.T, caller load.Caller, prefix string) {
	t.Helper()
	item := func(key, value string) load.Item { return load.Item{Key: prefix + key, Value: []byte(value)} }
	for _, x := range []struct {
		what string
		load.Request
		want load.Tally
	}{
		{"a key that is not set", load.Request{Kind: load.Absent, Item: item("a", "")}, load.Tally{load.NotFound: 1}},
		{"the first put", load.Request{Kind: load.Put, Item: item("a", "1")}, load.Tally{load.Created: 1}},
		{"the same put", load.Request{Kind: load.Put, Item: item("a", "1")}, load.Tally{load.Unchanged: 1}},
		{"another put", load.Request{Kind: load.Put, Item: item("a", "2")}, load.Tally{load.Conflict: 1}},
		{"a get", load.Request{Kind: load.Get, Item: item("a", "1")}, load.Tally{load.Found: 1}},
		{"a batch", load.Request{Kind: load.Batch, Items: []load.Item{item("a", "1"), item("b", "1"), item("a", "2"), item("c", "1")}}, load.Tally{load.Created: 2, load.Unchanged: 1, load.Conflict: 1}},
		{"a get of the batch", load.Request{Kind: load.Get, Item: item("c", "1")}, load.Tally{load.Found: 1}},
		{"a put of nothing", load.Request{Kind: load.Put, Item: item("empty", "")}, load.Tally{load.Created: 1}},
		{"a get of nothing", load.Request{Kind: load.Get, Item: item("empty", "")}, load.Tally{load.Found: 1}},
	} {
		var tally load.Tally
		if err := caller.Call(t.Context(), &x.Request, &tally); err != nil || tally != x.want {
			t.Errorf("%s: %v, %v; want %v", x.what, tally, err, x.want)
		}
	}
	for _, wrong := range []load.Request{
		{Kind: load.Get, Item: item("a", "2")},
		{Kind: load.Get, Item: item("not set", "")},
	} {
		if err := caller.Call(t.Context(), &wrong, &load.Tally{}); err == nil {
			t.Errorf("a get of %q had an answer that is wrong, and no error", wrong.Key)
		}
	}
}
