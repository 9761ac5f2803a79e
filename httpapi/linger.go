package httpapi

import (
	"io"
	"net/http"
	"time"
)

// What is read of the rest of a body whose request was refused.
const (
	lingerIdle  = time.Second     // without a byte of it
	lingerMax   = 5 * time.Second // in all
	lingerBytes = 256 << 20
)

// linger sends a refusal and reads what the client still sends, for a while. Most
// clients send all of a body before they look for an answer. If the connection were
// closed while bytes come in, the kernel would reset it, and the client would see a
// broken connection instead of the reason (RFC 9112, 9.6). net/http waits for half a
// second then, reads nothing, and does not even wait when the client asked for one
// answer only or for a go-ahead.
//
// What net/http makes of the connection afterwards does not change: it is used again
// only if the body was read to its end.
func linger(w http.ResponseWriter, body io.Reader) {
	rest := &lingering{conn: http.NewResponseController(w), body: body, end: time.Now().Add(lingerMax)}
	if rest.conn.Flush() != nil {
		return
	}
	if n, _ := rest.Read(make([]byte, 1)); n > 0 { // most bodies have been read to their end
		_, _ = io.CopyN(io.Discard, rest, lingerBytes)
	}
}

// lingering reads under the deadlines of linger.
type lingering struct {
	conn *http.ResponseController
	body io.Reader
	end  time.Time
}

// Read implements io.Reader.
func (l *lingering) Read(p []byte) (int, error) {
	until := time.Now().Add(lingerIdle)
	if until.After(l.end) {
		until = l.end
	}
	if err := l.conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return l.body.Read(p)
}
