package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
)

// A key is set once: the same bytes again are a success, others are refused.
func ExampleNewDatabase() {
	api := NewDatabase(DatabaseConfig{DB: newFakeDB(), Cluster: &fakeCluster{}, Registry: &fakeRegistry{}})
	server := httptest.NewServer(api)
	defer server.Close()

	for _, value := range []string{"bar", "bar", "other"} {
		request, err := http.NewRequest(http.MethodPut, server.URL+"/key/foo", strings.NewReader(value))
		if err != nil {
			fmt.Println(err)
			return
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			fmt.Println(err)
			return
		}
		response.Body.Close()
		fmt.Println(response.Status)
	}

	response, err := http.Get(server.URL + "/key/foo")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close()
	value, err := io.ReadAll(response.Body)
	fmt.Println(string(value), response.Header.Get("Oncekv-Revision"), err)
	// Output:
	// 201 Created
	// 200 OK
	// 409 Conflict
	// bar 1 <nil>
}
