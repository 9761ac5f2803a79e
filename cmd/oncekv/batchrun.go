package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/Focinfi/oncekv/client"
)

// allPutter is the part of client.Client that a batch needs.
type allPutter interface {
	PutAll(ctx context.Context, items iter.Seq[client.PutItem]) iter.Seq2[client.PutResult, error]
}

// batchRun puts the lines of in and shows their results in the order of the lines.
//
//	reader --lines--> producer --items--> PutAll --results--> run
//	                     \------------notes-------------------/
//
// The reader is a goroutine that may hang in a read, so it may end with the process; all
// others end before run returns. Every line leaves a note, but only valid ones have a result.
// Memory is that of PutAll plus notesMax notes.
type batchRun struct {
	client allPutter
	in     io.Reader
	name   string // name of in
	out    *batchOutput

	readErr error // owned by the producer until PutAll returns
	putErr  error // owned by PutAll's loop until it returns
}

// notesMax bounds how many lines are read ahead of the oldest without a result.
const notesMax = 4096

// run returns an error if it did not try every line.
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
				cancel() // else PutAll waits for the producer, which may wait for a line
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
	err  error // set with the last line
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

// items yields the puts of the valid lines. It sends a line's note before its put.
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

// show writes the results in the order of the lines. If a line has no result, show returns the
// first such line.
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

// next receives a value. Before it waits, it flushes the output.
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

// outcome returns why some lines were not put, if any. Call it when everything has ended.
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
