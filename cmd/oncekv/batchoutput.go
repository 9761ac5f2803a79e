package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// batchOutput shows and counts the results of a batch.
type batchOutput struct {
	results  *bufio.Writer // JSON; nil for none
	problems io.Writer     // for people; nil for none
	bar      *progress
	sum      summary
}

func (a *app) batchOutput() *batchOutput {
	if a.json {
		return &batchOutput{results: bufio.NewWriter(a.stdout)}
	}
	return &batchOutput{problems: a.stderr}
}

func (o *batchOutput) flush() error {
	if o.results == nil {
		return nil
	}
	return o.results.Flush()
}

// invalid shows a line that was not sent.
func (o *batchOutput) invalid(l batchLine) error {
	return o.show(l, invalid, api.BatchResult{Status: api.BatchInvalid, Detail: l.err.Error()})
}

// result shows the result of a line that was sent.
func (o *batchOutput) result(l batchLine, r client.PutResult) error {
	shown := api.BatchResult{Status: r.Status}
	shown.Key, shown.KeyBase64 = api.JSONKey(r.Key)
	if r.Status != api.BatchInvalid {
		shown.Revision, shown.SHA256, shown.Size = r.Revision, r.SHA256, &r.Size
	}
	how := created
	switch {
	case r.Status == api.BatchInvalid:
		how = invalid
	case r.Err != nil: // includes bytes that changed on the way: the key holds wrong ones now
		how, shown.Status = conflict, api.BatchConflict
	case r.Status == api.BatchUnchanged:
		how = unchanged
	}
	if r.Err != nil {
		shown.Detail = detailOf(r.Err)
	}
	return o.show(l, how, shown)
}

// lineOfStream matches the line number with which a node begins a complaint. The node counts
// lines of its own stream.
var lineOfStream = regexp.MustCompile(`^line \d+: `)

// detailOf returns a result's error without what the output line says already.
func detailOf(err error) string {
	var lost *client.ConflictError
	var status *client.StatusError
	switch {
	case errors.As(err, &lost):
		return lost.Error()
	case errors.As(err, &status):
		return lineOfStream.ReplaceAllString(status.Error(), "")
	}
	return err.Error()
}

func (o *batchOutput) show(l batchLine, how outcome, r api.BatchResult) error {
	o.sum.add("", how, l.size, nil)
	o.bar.add(l.bytes)
	if o.results != nil {
		if how == invalid {
			r.Detail = fmt.Sprintf("line %d: %s", l.number, r.Detail)
		}
		return writeJSON(o.results, r)
	}
	if r.Detail == "" {
		return nil
	}
	o.bar.clear()
	key := ""
	if l.item.Key != "" {
		key = shown(l.item.Key) + ": "
	}
	_, err := fmt.Fprintf(o.problems, "line %d: %s: %s%s\n", l.number, how, key, legible(r.Detail))
	return err
}

// stopped ends the output of a batch that could not go on. first and the lines in notes were
// taken and have no result.
func (o *batchOutput) stopped(first batchLine, notes <-chan batchLine, why error) error {
	how := failed
	if errors.Is(why, api.ErrOutcomeUnknown) {
		how = unknown
	}
	o.sum.add("", how, first.size, nil)
	for l := range notes {
		if l.err == nil {
			o.sum.add("", how, l.size, nil)
		}
	}
	if o.results != nil {
		last := api.BatchResult{Status: api.BatchError, Line: uint64(first.number), Type: problemType(why), Detail: why.Error()}
		if err := errors.Join(writeJSON(o.results, last), o.flush()); err != nil {
			return err
		}
	}
	return fmt.Errorf("line %d and those after it have no result: %w", first.number, why)
}

func problemType(err error) string {
	var status *client.StatusError
	switch {
	case errors.Is(err, api.ErrOutcomeUnknown):
		return api.ProblemOutcomeUnknown
	case errors.As(err, &status):
		return status.Problem.Type
	}
	return api.ProblemUnavailable
}
