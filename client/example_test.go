package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

func Example() {
	node := httptest.NewServer(newTinyNode())
	defer node.Close()
	ctx := context.Background()

	c, err := client.New(client.Config{Endpoints: []string{node.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer, err := c.PutBytes(ctx, "greeting", []byte("hello"), client.PutOptions{ContentType: "text/plain"})
	fmt.Println("created:", answer.Created, err)

	_, err = c.PutBytes(ctx, "greeting", []byte("goodbye"), client.PutOptions{})
	var lost *client.ConflictError
	if errors.As(err, &lost) {
		fmt.Println("lost to revision", lost.Revision)
	}

	obj, err := c.Get(ctx, "greeting", client.GetOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer obj.Body.Close()
	value, err := io.ReadAll(obj.Body)
	fmt.Printf("%s %v\n", value, err)

	_, err = c.Get(ctx, "absent", client.GetOptions{})
	fmt.Println("absent:", errors.Is(err, client.ErrNotFound))
	// Output:
	// created: true <nil>
	// lost to revision 1
	// hello <nil>
	// absent: true
}

func ExampleClient_Keys() {
	node := answering(`{"keys":[{"key":"app/v1/main.js","revision":1,"size":120},{"key":"app/v2/main.js","revision":3,"size":150}]}`)
	defer node.Close()
	c, err := client.New(client.Config{Endpoints: []string{node.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for record, err := range c.Keys(context.Background(), client.KeysOptions{Prefix: "app/"}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(record.Key, record.Size)
	}
	// Output:
	// app/v1/main.js 120
	// app/v2/main.js 150
}

func ExampleClient_Changes() {
	node := answering(
		`{"revision":1,"key":"app/v1/main.js","size":120}`,
		`{"revision":2,"key":"greeting","size":5}`)
	defer node.Close()
	c, err := client.New(client.Config{Endpoints: []string{node.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	// With Follow: true the loop would go on with whatever is set next.
	for change, err := range c.Changes(context.Background(), client.ChangesOptions{Since: 0}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(change.Revision, change.Key)
	}
	// Output:
	// 1 app/v1/main.js
	// 2 greeting
}

func ExampleHistoryChangedError() {
	// A node of a cluster that was forced out of the one that was read before.
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", api.ContentTypeProblem)
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"type":"urn:oncekv:problem:history-changed","status":409,"history":"ffeeddccbbaa99887766554433221100","newest":50,
			"parent":{"id":"00112233445566778899aabbccddeeff","revision":40}}`)
	}))
	defer node.Close()
	c, err := client.New(client.Config{Endpoints: []string{node.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	kept, err := client.ParsePosition("42.00112233445566778899aabbccddeeff")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, err := range c.Changes(context.Background(), client.ChangesOptions{Since: kept.Revision, History: kept.History}) {
		var changed *client.HistoryChangedError
		if errors.As(err, &changed) {
			fmt.Println("drop what came behind revision", changed.Common())
			fmt.Println("go on from", client.Position{Revision: changed.Common(), History: changed.History})
		}
	}
	// Output:
	// drop what came behind revision 40
	// go on from 40.ffeeddccbbaa99887766554433221100
}

func ExampleClient_PutAll() {
	node := httptest.NewServer(newTinyNode())
	defer node.Close()
	c, err := client.New(client.Config{Endpoints: []string{node.URL}})
	if err != nil {
		fmt.Println(err)
		return
	}
	items := slices.Values([]client.PutItem{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}})
	for result, err := range c.PutAll(context.Background(), items) {
		if err != nil {
			fmt.Println(err) // the items from result.Index on have no result
			return
		}
		var lost *client.ConflictError
		if errors.As(result.Err, &lost) {
			fmt.Println(result.Key, "was set to other bytes at revision", lost.Revision)
			continue
		}
		fmt.Println(result.Key, result.Status)
	}
	// Output:
	// a created
	// a was set to other bytes at revision 1
}

// answering is a node that answers every request with the same lines.
func answering(lines ...string) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		for _, line := range lines {
			fmt.Fprintln(w, line)
		}
	}))
}

// newTinyNode is just enough of a database node for the example.
func newTinyNode() http.Handler {
	var mu sync.Mutex
	values := map[string][]byte{}
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	refuse := func(w http.ResponseWriter, p client.Problem) {
		w.Header().Set("Content-Type", api.ContentTypeProblem)
		w.WriteHeader(p.Status)
		json.NewEncoder(w).Encode(p)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		value, set := values[r.URL.Path]
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if set && !bytes.Equal(value, body) {
				refuse(w, client.Problem{Type: api.ProblemConflict, Status: http.StatusConflict, Revision: 1, SHA256: digest(value)})
				return
			}
			values[r.URL.Path] = body
			w.WriteHeader(http.StatusCreated)
			json.NewEncoder(w).Encode(client.PutAnswer{Revision: 1, SHA256: digest(body), Size: int64(len(body)), Created: true})
			return
		}
		if !set {
			refuse(w, client.Problem{Type: api.ProblemNotFound, Status: http.StatusNotFound})
			return
		}
		w.Header().Set("ETag", strconv.Quote(digest(value)))
		w.Header().Set(api.HeaderRevision, "1")
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		w.Header().Set("Content-Length", strconv.Itoa(len(value)))
		w.Write(value)
	})
}
