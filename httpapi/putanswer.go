package httpapi

import (
	"encoding/hex"
	"net/http"
	"strconv"
	"sync"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// putAnswer is what a decided put is answered.
type putAnswer struct {
	key      kvstore.Key
	winner   *kvstore.Meta
	created  bool
	tagged   bool   // a kept loser must not take the winner's tag for its own
	location string // "": none
}

// putAnswers writes answers to puts. Every put has one, so it does without what a
// JSON encoder and Header.Set allocate for each: the body is written into a
// buffer that is used again, and the headers are parts of one string. The zero
// value is ready; safe for concurrent use.
type putAnswers struct {
	buffers sync.Pool // *[]byte
}

func (p *putAnswers) write(w http.ResponseWriter, a *putAnswer) error {
	buf, _ := p.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer p.buffers.Put(buf)
	body, err := a.appendJSON((*buf)[:0])
	if err != nil {
		return err
	}
	*buf = body
	a.setHeaders(w.Header(), len(body))
	status := http.StatusOK
	if a.created {
		status = http.StatusCreated
	}
	w.WriteHeader(status)
	w.Write(body) // an error here is the client's going away
	return nil
}

// setHeaders sets all headers of the answer, whose names are in the canonical
// form of net/http.
func (a *putAnswer) setHeaders(h http.Header, length int) {
	var room [128]byte
	text := headerText{buf: room[:0]}
	text.buf = append(text.buf, '"')
	text.buf = hex.AppendEncode(text.buf, a.winner.SHA256[:])
	text.buf = append(text.buf, '"')
	text.end()
	text.buf = strconv.AppendUint(text.buf, uint64(a.winner.Revision), 10)
	text.end()
	text.buf = strconv.AppendInt(text.buf, int64(length), 10)
	text.end()

	lines := new([5]string) // what the header's slices are parts of
	text.split(lines[:])
	lines[3], lines[4] = "application/json", "no-store"
	if a.tagged {
		h["Etag"] = lines[0:1:1]
	}
	h[api.HeaderRevision] = lines[1:2:2]
	h["Content-Length"] = lines[2:3:3]
	h["Content-Type"] = lines[3:4:4]
	h["Cache-Control"] = lines[4:5:5]
	if a.location != "" {
		h["Location"] = []string{a.location}
	}
}

// appendJSON appends a api.PutAnswer as marshal renders it.
func (a *putAnswer) appendJSON(b []byte) ([]byte, error) {
	if !plainInJSON(string(a.key)) {
		body, err := marshal(a.document())
		return append(b, body...), err
	}
	b = append(b, `{"key":"`...)
	b = append(b, a.key...)
	b = append(b, `","revision":`...)
	b = strconv.AppendUint(b, uint64(a.winner.Revision), 10)
	b = append(b, `,"sha256":"`...)
	b = hex.AppendEncode(b, a.winner.SHA256[:])
	b = append(b, `","size":`...)
	b = strconv.AppendInt(b, a.winner.Size, 10)
	b = append(b, `,"created":`...)
	b = strconv.AppendBool(b, a.created)
	return append(b, '}', '\n'), nil
}

// plainInJSON reports whether a key is its own form in JSON: ASCII with nothing to
// escape.
func plainInJSON(key string) bool {
	for i := range len(key) {
		if c := key[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (a *putAnswer) document() *api.PutAnswer {
	answer := &api.PutAnswer{
		Revision: uint64(a.winner.Revision),
		SHA256:   a.winner.SHA256.String(),
		Size:     a.winner.Size,
		Created:  a.created,
	}
	answer.Key, answer.KeyBase64 = api.JSONKey(string(a.key))
	return answer
}

// appendPlainResult appends the line of a result that is about a put that is done,
// whose key needs no escape, as encoding/json would. ok is false for all others.
func appendPlainResult(line []byte, r *api.BatchResult) (_ []byte, ok bool) {
	if r.Key == "" || r.Revision == 0 || r.SHA256 == "" || r.Size == nil || r.Detail != "" || r.Type != "" || r.Line != 0 {
		return line, false
	}
	for i := range len(r.Key) {
		if c := r.Key[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return line, false
		}
	}
	line = append(append(line, `{"key":"`...), r.Key...)
	line = append(append(line, `","status":"`...), r.Status...)
	line = strconv.AppendUint(append(line, `","revision":`...), r.Revision, 10)
	line = append(append(line, `,"sha256":"`...), r.SHA256...)
	line = strconv.AppendInt(append(line, `","size":`...), *r.Size, 10)
	return append(line, "}\n"...), true
}
