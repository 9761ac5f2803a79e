package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
)

// PutItem is one put of many.
type PutItem struct {
	Key         string
	Value       []byte            // must not change until its result is there
	ContentType string            // empty means application/octet-stream
	Meta        map[string]string // kept with the value, see PutOptions.Meta; must not change either
}

// PutResult is how one put of many went.
type PutResult struct {
	Index  int // of the item, from 0
	Key    string
	Status string // BatchCreated, BatchUnchanged, BatchConflict or BatchInvalid

	// What the key is set to, unless the item is invalid.
	Revision uint64
	SHA256   string
	Size     int64

	// Resent: the item was sent more than once, because a stream broke off. If
	// it is unchanged, it may be this very item that set the key.
	Resent bool

	// Err is nil for created and unchanged. A conflict is a *ConflictError,
	// which says who won.
	Err error
}

// PutAll sets the keys of all items and yields one result for each, in their
// order. Items are sent while results are read, in one stream (POST /keys), so
// it is much faster than a Put each. It is for small values: a line of more than
// 8 MiB is refused as invalid; Put takes larger ones. Items with the same key are decided in
// their order, as long as no stream breaks off.
//
// How one item went is in PutResult.Err and does not end the loop. Items that a
// node could not decide, and those of a stream that broke off, are sent again,
// to another endpoint, as long as something is decided in Config.RetryTimeout
// or, if ctx has a deadline, before it. After that the loop ends with an error
// (its last element; PutResult.Index is the first item without a result):
// ErrOutcomeUnknown if some of the items without a result may have been put.
// Repeating is safe.
//
// items is consumed in a goroutine that PutAll waits for: when the loop is left
// early it must not block for long in producing the next item. Not more than
// about 8 MiB (or one item) is taken from it ahead of the results.
func (c *Client) PutAll(ctx context.Context, items iter.Seq[PutItem]) iter.Seq2[PutResult, error] {
	return func(yield func(PutResult, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		b := &batch{client: c, yield: yield, queue: newBatchQueue(), stuck: time.Now()}
		var producer sync.WaitGroup
		defer producer.Wait()
		defer cancel()
		producer.Go(func() {
			defer b.queue.close()
			for item := range items {
				if !b.queue.push(ctx, item) {
					return
				}
			}
		})
		if err := b.run(ctx); err != nil && err != errLoopEnded {
			yield(PutResult{Index: b.queue.decided()}, err)
		}
	}
}

const opBatch = "put many"

// Bounds of the items that are taken and not decided.
const (
	batchItemsMax = 2048
	batchBytesMax = 8 << 20
)

// batch is one call of PutAll. Its fields are owned by run; queue is shared
// with the producer and with the transport, which reads the request's body.
type batch struct {
	client *Client
	queue  *batchQueue
	yield  func(PutResult, error) bool

	unsure bool // what the current stream has sent may have been put
	moved  bool // something was decided since the last break
	stuck  time.Time
	breaks int // without progress in between
}

// run opens one stream after the other, until everything is decided.
func (b *batch) run(ctx context.Context) error {
	for {
		if more, err := b.queue.wait(ctx); err != nil {
			return fmt.Errorf("%s: %w", opBatch, err)
		} else if !more {
			return nil
		}
		err := b.stream(ctx)
		if err == errLoopEnded {
			return err
		}
		if ctx.Err() != nil {
			return b.giveUp(nil, ctx.Err())
		}
		if err := b.afterBreak(ctx, err); err != nil {
			return err
		}
	}
}

// afterBreak decides whether to go on after a stream ended with cause, nil for
// an orderly end.
func (b *batch) afterBreak(ctx context.Context, cause error) error {
	if b.moved {
		b.moved, b.breaks, b.stuck = false, 0, time.Now()
	}
	var lost *EndpointError
	var nobody *RequestError
	switch {
	case cause == nil || b.queue.empty():
		b.stuck = time.Now()
		return nil
	case errors.As(cause, &nobody):
		return b.giveUp(nobody.Endpoints, nobody.Cause)
	case !errors.As(cause, &lost):
		return cause
	}
	pause := backoff(b.breaks, 0)
	b.breaks++
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = b.stuck.Add(b.client.retryTimeout)
	}
	if b.breaks == 1 {
		return nil // at once, at another endpoint
	}
	if time.Now().Add(pause).After(deadline) {
		return b.giveUp([]*EndpointError{lost}, nil)
	}
	if err := b.client.wait(ctx, pause); err != nil {
		return b.giveUp([]*EndpointError{lost}, err)
	}
	return nil
}

func (b *batch) giveUp(endpoints []*EndpointError, cause error) error {
	kind := ErrUnavailable
	if b.queue.unsure() {
		kind = ErrOutcomeUnknown
	}
	return &RequestError{Op: opBatch, Kind: kind, Endpoints: endpoints, Cause: cause}
}

// stream sends what is undecided, and what comes, in one request, and reads the
// results.
func (b *batch) stream(ctx context.Context) error {
	req := &call{
		op: opBatch, method: http.MethodPost, target: "/keys", mutates: true,
		header: http.Header{"Content-Type": {api.ContentTypeNDJSON}},
		stream: b.queue.open,
		owed:   b.queue.owed,
	}
	b.unsure = true
	defer func() { b.queue.detach(b.unsure) }()
	resp, err := b.client.do(ctx, req)
	if err != nil {
		b.unsure = req.unsure
		return err
	}
	defer resp.Body.Close()
	lines := newLineReader(resp.Body)
	for {
		data, err := lines.next()
		if err == io.EOF && b.queue.empty() {
			return nil
		}
		if err == io.EOF {
			err = errors.New("the stream ended before its results")
		}
		if err == nil {
			err = b.take(data)
		}
		switch err {
		case nil:
			continue
		case errLoopEnded:
			return err
		case errLineRefused:
			return nil
		}
		b.client.ranking.failed(req.endpoint, time.Now())
		return &EndpointError{Endpoint: b.client.endpoints[req.endpoint], Sent: true, Err: err}
	}
}

// errLineRefused is the orderly end of a stream before a line that is too long.
var errLineRefused = errors.New("the stream ended before a line that is too long")

// take handles one line of the answer, which is about the oldest item.
func (b *batch) take(data []byte) error {
	var a api.BatchResult
	if !readPlainResult(data, &a) {
		if err := decodeLine(data, &a); err != nil {
			return err
		}
	}
	item := b.queue.oldestSent()
	refused := item != nil && a.Status == api.BatchError && a.Type == api.ProblemTooLarge
	if refused { // nothing that has no result was done, and the next stream begins behind this item
		b.unsure = false
		a.Status, a.Detail = BatchInvalid, fmt.Sprintf("as a line of JSON it has %d bytes, more than a node accepts; use Put for larger values", len(item.line))
	}
	switch a.Status {
	case BatchCreated, BatchUnchanged, BatchConflict, BatchInvalid:
	case api.BatchFailed:
		b.queue.refused()
		return fmt.Errorf("%q failed: %s", a.Key, a.Detail)
	case api.BatchUnknown:
		return fmt.Errorf("%q has an unknown outcome: %s", a.Key, a.Detail)
	default: // the stream ends here, and nothing that has no result was done
		b.unsure = false
		p := Problem{Type: a.Type, Status: http.StatusServiceUnavailable, Detail: a.Detail}
		return &StatusError{Problem: p, Kind: p.Kind()}
	}
	if item == nil {
		return violation("a result for %q, which was not sent", a.Key)
	}
	if key, err := api.RawKey(a.Key, a.KeyBase64); a.Status != BatchInvalid && (err != nil || key != item.key) {
		return violation("the result is for %q, the item is %q", key, item.key)
	}
	result := item.result(&a)
	b.queue.pop()
	b.moved = true
	b.queue.pause(true)
	more := b.yield(result, nil)
	b.queue.pause(false)
	if !more {
		return errLoopEnded
	}
	if refused {
		return errLineRefused
	}
	return nil
}

// batchItem is an item that is taken and not decided.
type batchItem struct {
	index  int
	key    string
	digest string
	line   []byte
	sends  int
	handed bool // to the current stream
	unsure bool // it may have been put by an earlier one
}

// appendText appends a JSON string. Most texts need no escape, and are ten times as
// fast without encoding/json.
func appendText(line []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			var escaped bytes.Buffer
			enc := json.NewEncoder(&escaped)
			enc.SetEscapeHTML(false) // it would make six bytes of each < of a page
			if err := enc.Encode(text); err != nil {
				panic(err) // strings always marshal
			}
			return append(line, bytes.TrimSuffix(escaped.Bytes(), []byte("\n"))...)
		}
	}
	line = append(line, '"')
	line = append(line, text...)
	return append(line, '"')
}

// appendMeta appends a JSON object. The same map gives the same bytes.
func appendMeta(line []byte, meta map[string]string) []byte {
	separator := byte('{')
	for _, name := range slices.Sorted(maps.Keys(meta)) {
		line = appendText(append(line, separator), name)
		line = appendText(append(line, ':'), meta[name])
		separator = ','
	}
	return append(line, '}')
}

func newBatchItem(index int, item PutItem) *batchItem {
	sum := sha256.Sum256(item.Value)
	line := make([]byte, 0, 96+len(item.Key)+len(item.ContentType)+base64.StdEncoding.EncodedLen(len(item.Value)))
	if key, b64 := api.JSONKey(item.Key); b64 != "" {
		line = appendText(append(line, `{"key_base64":`...), b64)
	} else {
		line = appendText(append(line, `{"key":`...), key)
	}
	line = append(line, `,"value":`...)
	if utf8.Valid(item.Value) {
		line = appendText(line, string(item.Value))
	} else {
		line = append(line, '"')
		line = base64.StdEncoding.AppendEncode(line, item.Value)
		line = append(line, `","encoding":"base64"`...)
	}
	line = appendText(append(line, `,"content_type":`...), cmp.Or(item.ContentType, "application/octet-stream"))
	if len(item.Meta) > 0 {
		line = appendMeta(append(line, `,"meta":`...), item.Meta)
	}
	line = append(line, "}\n"...)
	return &batchItem{index: index, key: item.Key, digest: hex.EncodeToString(sum[:]), line: line}
}

func (i *batchItem) result(a *api.BatchResult) PutResult {
	r := PutResult{Index: i.index, Key: i.key, Status: a.Status, Resent: i.sends > 1, Revision: a.Revision, SHA256: a.SHA256}
	if a.Size != nil {
		r.Size = *a.Size
	}
	switch {
	case a.Status == BatchConflict:
		r.Err = &ConflictError{Revision: a.Revision, SHA256: a.SHA256, Size: r.Size, Status: http.StatusConflict, Detail: a.Detail}
	case a.Status == BatchInvalid:
		p := Problem{Type: a.Type, Status: http.StatusBadRequest, Detail: a.Detail}
		r.Err = &StatusError{Problem: p, Kind: p.Kind()}
	case a.SHA256 != i.digest:
		r.Err = fmt.Errorf("%w: sent %s, the key is now set to %s: the bytes changed on the way", ErrDigestMismatch, i.digest, a.SHA256)
	}
	if r.Err != nil {
		r.Err = fmt.Errorf("put %q: %w", i.key, r.Err)
	}
	return r
}
