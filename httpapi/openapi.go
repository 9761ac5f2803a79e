package httpapi

import (
	_ "embed"
	"net/http"
	"strconv"
)

// description is the API's own, for both kinds of node. It is never written to.
//
//go:embed openapi.yaml
var description []byte

// openAPI answers GET /openapi.yaml.
func openAPI(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Content-Length", strconv.Itoa(len(description)))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	w.Write(description) // an error here is the client's going away
	return nil
}
