package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/checker"
)

// batch tries to set keys in one request, and records the result of each line. Lines without a
// result, because the stream broke off, may still take effect.
func (p *prober) batch(ctx context.Context, keys []string, values [][]byte) {
	var lines bytes.Buffer
	to := json.NewEncoder(&lines)
	for i, key := range keys {
		value := string(values[i])
		_ = to.Encode(api.PutDocument{Key: &key, Value: &value}) // of strings, into memory
	}
	call := int64(p.into.now())
	op := func(i int) checker.Op {
		return checker.Op{Key: keys[i], Value: digestOf(values[i]), Outcome: checker.Unknown, Who: p.who + " batch", Call: call, Return: int64(p.into.now())}
	}
	done := 0
	defer func() {
		for i := done; i < len(keys); i++ {
			p.into.add(p.node, op(i))
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/keys", &lines)
	if err != nil {
		p.into.strange("%s: %v", p.who, err)
		return
	}
	req.Header.Set("Content-Type", api.ContentTypeNDJSON)
	resp, err := p.http.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusInsufficientStorage:
		p.into.refused("batch " + strconv.Itoa(resp.StatusCode))
		done = len(keys)
		return
	case http.StatusGatewayTimeout, http.StatusInternalServerError:
		return
	default:
		p.into.strange("%s: a batch was answered %d", p.who, resp.StatusCode)
		return
	}
	for results := bufio.NewScanner(resp.Body); results.Scan(); {
		var said api.BatchResult
		if err := json.Unmarshal(results.Bytes(), &said); err != nil {
			return // the last line, cut off
		}
		if said.Status == api.BatchError {
			p.into.refused("batch ended early")
			if said.Line != uint64(done+1) {
				p.into.strange("%s: a batch ended at line %d after %d results: %s", p.who, said.Line, done, said.Detail)
				return
			}
			done = len(keys) // nothing of them was proposed
			return
		}
		if done == len(keys) || said.Key != keys[done] {
			p.into.strange("%s: result %d of a batch of %d lines is of key %q", p.who, done+1, len(keys), said.Key)
			return
		}
		o := op(done)
		done++
		p.lineOutcome(o, &said)
	}
}

// lineOutcome records what the result of a line says.
func (p *prober) lineOutcome(o checker.Op, said *api.BatchResult) {
	o.Revision = said.Revision
	switch said.Status {
	case api.BatchCreated:
		o.Outcome = checker.Created
	case api.BatchUnchanged:
		o.Outcome = checker.Unchanged
	case api.BatchConflict:
		o.Outcome, o.Seen = checker.Conflict, said.SHA256
	case api.BatchFailed:
		p.into.refused("line failed")
		return
	case api.BatchUnknown:
		o.Revision = 0
		p.into.add(p.node, o)
		return
	default:
		p.into.strange("%s: a line that puts %s was answered %+v", p.who, o.Key, said)
		o.Revision = 0
		p.into.add(p.node, o)
		return
	}
	if said.Revision == 0 || said.SHA256 == "" || o.Outcome != checker.Conflict && said.SHA256 != o.Value {
		p.into.strange("%s: a line that puts %s of %s was answered %+v", p.who, o.Key, o.Value, said)
	}
	p.into.add(p.node, o)
}
