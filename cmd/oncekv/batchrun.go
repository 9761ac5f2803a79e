package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/Focinfi/oncekv/client"
)

// allPutter is the one method of client.Client that a batch needs.
type allPutter interface {
	PutAll(ctx context.Context, items iter.Seq[client.PutItem]) iter.Seq2[client.PutResult, error]
}

// batchRun puts the lines of in and shows their results in their order.
//
//	reader --lines--> producer --items--> PutAll --results--> run
//	                     \------------notes-------------------/
//
// The reader is a goroutine that may hang in reading, so it is left to end with
// the process; all others end before run returns. Every line leaves a note, but
// only valid ones have a result. Memory is that of PutAll and of notesMax notes.
type batchRun struct {
	client allPutter
	in     io.Reader
	name   string // of in
	out    *batchOutput

	readErr error // owned by the producer until PutAll is over
	putErr  error // owned by PutAll's loop until it is over
}

// notesMax is how many lines may be read ahead of the oldest without a result.
const notesMax = 4096

// run returns an error when not every line was tried.
func (b *batchRun) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read := make(chan lineRead)
	go b.read(ctx, read)
	notes := make(chan batchLine, notesMax)
	results := make(chan client.PutResult, 64)
	go func() {
		defer close(results)
		for r, err := range b.client.PutAll(ctx, b.items(ctx, read, notes)) {
			if err != nil {
				b.putErr = err
				cancel() // else the producer, which PutAll waits for, may wait for a line
				return
			}
			results <- r
		}
	}()
	first, showErr := b.show(notes, results)
	if showErr != nil {
		cancel()
	}
	for range results {
	}
	return b.outcome(first, showErr, notes)
}

type lineRead struct {
	line batchLine
	err  error // the last one has it
}

func (b *batchRun) read(ctx context.Context, read chan<- lineRead) {
	lines := newBatchLines(b.in)
	for {
		line, err := lines.next()
		if err != nil && err != io.EOF {
			err = fmt.Errorf("read %s after line %d: %w", b.name, lines.number, err)
		}
		select {
		case read <- lineRead{line, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// items are the puts of the lines that are valid. A line's note comes before its
// put.
func (b *batchRun) items(ctx context.Context, read <-chan lineRead, notes chan<- batchLine) iter.Seq[client.PutItem] {
	return func(yield func(client.PutItem) bool) {
		defer close(notes)
		for {
			var r lineRead
			select {
			case r = <-read:
			case <-ctx.Done():
				return
			}
			if r.err != nil {
				b.readErr = r.err
				return
			}
			note := r.line
			note.item.Value = nil
			select {
			case notes <- note:
			case <-ctx.Done():
				return
			}
			if note.err == nil && !yield(r.line.item) {
				return
			}
		}
	}
}

// show passes on the results in the order of lines. It returns the first line
// that has none, if there is one.
func (b *batchRun) show(notes <-chan batchLine, results <-chan client.PutResult) (first batchLine, err error) {
	for {
		note, more, err := next(b.out, notes)
		if err != nil || !more {
			return batchLine{}, errors.Join(err, b.out.flush())
		}
		if note.err != nil {
			if err := b.out.invalid(note); err != nil {
				return batchLine{}, err
			}
			continue
		}
		r, more, err := next(b.out, results)
		if err != nil || !more {
			return note, errors.Join(err, b.out.flush())
		}
		if err := b.out.result(note, r); err != nil {
			return batchLine{}, err
		}
	}
}

// next receives, and lets people see what there is before it waits.
func next[T any](out *batchOutput, from <-chan T) (v T, more bool, err error) {
	select {
	case v, more = <-from:
		return v, more, nil
	default:
	}
	if err := out.flush(); err != nil {
		return v, false, err
	}
	v, more = <-from
	return v, more, nil
}

// outcome is why not every line was put, if so. Everything has ended.
func (b *batchRun) outcome(first batchLine, showErr error, notes <-chan batchLine) error {
	switch {
	case showErr != nil:
		return showErr
	case b.putErr != nil && first.number > 0:
		return b.out.stopped(first, notes, b.putErr)
	case b.putErr != nil:
		return b.putErr
	case b.readErr != nil && b.readErr != io.EOF:
		return b.readErr
	}
	return nil
}
