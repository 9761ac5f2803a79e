package httpapi

import (
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// userMetaOf reads the headers Oncekv-Meta-NAME of a put. The case of a header's name
// means nothing, so names are in lower case.
func userMetaOf(h http.Header) (kvstore.UserMeta, error) {
	var values map[string]string
	for header, lines := range h {
		name, found := strings.CutPrefix(header, api.HeaderMetaPrefix)
		if !found {
			continue
		}
		if len(lines) > 1 {
			return kvstore.UserMeta{}, invalid("%s is given %d times; give it once", header, len(lines))
		}
		if values == nil {
			values = make(map[string]string)
		}
		values[strings.ToLower(name)] = lines[0]
	}
	if values == nil {
		return kvstore.UserMeta{}, nil
	}
	return kvstore.MakeUserMeta(values)
}

// givenUserMeta returns a header with metadata of a put, "" if there is none.
func givenUserMeta(h http.Header) string {
	for header := range h {
		if strings.HasPrefix(header, api.HeaderMetaPrefix) {
			return header
		}
	}
	return ""
}

// setUserMeta sets what the put of a value said besides its content type, and who put
// it. Most values have neither.
func setUserMeta(h http.Header, m *kvstore.Meta) {
	if m.By != "" {
		h[api.HeaderBy] = []string{m.By}
	}
	if m.UserMeta.IsZero() {
		return
	}
	for name, value := range m.UserMeta.All() {
		h[http.CanonicalHeaderKey(api.HeaderMetaPrefix+name)] = []string{value}
	}
}
