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
	"strconv"
	"sync"

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

// newTinyNode is just enough of a database node for the example.
func newTinyNode() http.Handler {
	var mu sync.Mutex
	values := map[string][]byte{}
	digest := func(b []byte) string {
		sum := sha256.Sum256(b)
		return hex.EncodeToString(sum[:])
	}
	refuse := func(w http.ResponseWriter, p client.Problem) {
		w.Header().Set("Content-Type", client.ContentTypeProblem)
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
				refuse(w, client.Problem{Type: client.ProblemConflict, Status: http.StatusConflict, Revision: 1, SHA256: digest(value)})
				return
			}
			values[r.URL.Path] = body
			w.WriteHeader(http.StatusCreated)
			json.NewEncoder(w).Encode(client.PutAnswer{Revision: 1, SHA256: digest(body), Size: int64(len(body)), Created: true})
			return
		}
		if !set {
			refuse(w, client.Problem{Type: client.ProblemNotFound, Status: http.StatusNotFound})
			return
		}
		w.Header().Set("ETag", strconv.Quote(digest(value)))
		w.Header().Set(client.HeaderRevision, "1")
		w.Header().Set("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
		w.Header().Set("Content-Length", strconv.Itoa(len(value)))
		w.Write(value)
	})
}
