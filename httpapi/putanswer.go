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
	body := a.appendJSON((*buf)[:0])
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
	lines[3], lines[4] = contentTypeJSON, "no-store"
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

// appendJSON appends an api.PutAnswer as marshal renders it.
func (a *putAnswer) appendJSON(b []byte) []byte {
	text, b64 := api.JSONKey(string(a.key))
	if b64 != "" {
		b = append(append(append(b, `{"key_base64":"`...), b64...), '"')
	} else {
		b = appendJSONString(append(b, `{"key":`...), text)
	}
	b = append(b, `,"revision":`...)
	b = strconv.AppendUint(b, uint64(a.winner.Revision), 10)
	b = append(b, `,"sha256":"`...)
	b = hex.AppendEncode(b, a.winner.SHA256[:])
	b = append(b, `","size":`...)
	b = strconv.AppendInt(b, a.winner.Size, 10)
	b = append(b, `,"created":`...)
	b = strconv.AppendBool(b, a.created)
	return append(b, '}', '\n')
}

// appendPlainResult appends the line of a result of a put that is done, whose key is
// UTF-8, as marshal renders it. ok is false for all others.
func appendPlainResult(line []byte, r *api.BatchResult) (_ []byte, ok bool) {
	if r.Key == "" || r.Revision == 0 || r.SHA256 == "" || r.Size == nil || r.Detail != "" || r.Type != "" || r.Line != 0 {
		return line, false
	}
	line = appendJSONString(append(line, `{"key":`...), r.Key)
	line = append(append(line, `,"status":"`...), r.Status...)
	line = strconv.AppendUint(append(line, `","revision":`...), r.Revision, 10)
	line = append(append(line, `,"sha256":"`...), r.SHA256...)
	line = strconv.AppendInt(append(line, `","size":`...), *r.Size, 10)
	return append(line, "}\n"...), true
}
