package httpapi

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"

	"github.com/Focinfi/oncekv/api"
)

// headerRequestID names a request in logs and answers. A client's own name is
// taken if it could be a put id; others get one when there is something to say
// about them: an error, a line in the log, a node to forward to. A value's
// answer has none of ours, because HTTP caches keep it.
const headerRequestID = "X-Request-Id"

// requestIDOf reads the client's name of a request, "" if there is none fit to
// be written into logs.
func requestIDOf(h http.Header) string {
	lines := h[headerRequestID]
	if len(lines) != 1 || api.CheckPutID(lines[0]) != nil {
		return ""
	}
	return lines[0]
}

// requestID returns the name of the request that w answers, after giving it one
// if it has none.
func requestID(w http.ResponseWriter) string {
	a, ok := w.(*answer)
	if !ok {
		return ""
	}
	if a.id == "" {
		var random [8]byte // to tell requests apart, not to be secret
		binary.BigEndian.PutUint64(random[:], rand.Uint64())
		a.id = hex.EncodeToString(random[:])
	}
	return a.id
}
