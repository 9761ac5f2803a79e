package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// errReaderGone means that nobody reads from an output any more: it is a pipe or a socket.
var errReaderGone = errors.New("the reader of the output is gone")

// survivePipes turns writes to a pipe without a reader into errors. By default the Go runtime
// ends a process by SIGPIPE if such a pipe is its standard output or standard error: a node
// would end with the first log line after its log shipper died, and systemd takes that signal
// for a clean end.
func survivePipes() { signal.Ignore(syscall.SIGPIPE) }

// output is standard output, or the file of -o. It fails with errReaderGone.
type output struct{ io.Writer }

// outputError is a failed write to the output. It is never a usage error, even if it happens
// while the command line is still being parsed, as with --version.
type outputError struct{ error }

func (e *outputError) Unwrap() error { return e.error }

func (o output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = errReaderGone
	}
	if err != nil {
		err = &outputError{err}
	}
	return n, err
}

// messages is standard error. Its failures change nothing: a message that nobody reads is
// lost.
type messages struct{ io.Writer }

// Write never fails.
func (m messages) Write(p []byte) (int, error) {
	_, _ = m.Writer.Write(p)
	return len(p), nil
}

// newMessages returns a terminal as it is: later code asks whether it is one.
func newMessages(stderr io.Writer) io.Writer {
	if isTerminal(stderr) {
		return stderr
	}
	return messages{stderr}
}

// withoutReaderGone returns err without what comes from errReaderGone: work that is done stays
// done, even if nobody reads the result.
func withoutReaderGone(err error) error {
	if !errors.Is(err, errReaderGone) {
		return err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var rest []error
	for _, e := range joined.Unwrap() {
		rest = append(rest, withoutReaderGone(e))
	}
	return errors.Join(rest...)
}

// whileRead returns a context that ends with errReaderGone when standard output has lost its
// reader. Commands that may write nothing for a long time would not notice otherwise. stop
// ends the watching.
func (a *app) whileRead(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	file, ok := a.stdoutFile()
	if !ok {
		return ctx, func() { cancel(nil) }
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if readerGone(ctx, file) {
			cancel(errReaderGone)
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// stdoutFile returns standard output if it can lose its reader.
func (a *app) stdoutFile() (*os.File, bool) {
	o, ok := a.stdout.(output)
	if !ok {
		return nil, false
	}
	file, ok := o.Writer.(*os.File)
	if !ok {
		return nil, false
	}
	info, err := file.Stat()
	return file, err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// readerLookEvery is how long one poll for the reader may wait.
const readerLookEvery = 200 // milliseconds

// readerGone returns true when file has lost its reader, false if ctx ends first or the system
// does not tell.
func readerGone(ctx context.Context, file *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(file.Fd())}} // no events: errors are always reported
	for ctx.Err() == nil {
		switch n, err := unix.Poll(fds, readerLookEvery); {
		case err == unix.EINTR:
		case err != nil:
			return false
		case n > 0:
			return true
		}
	}
	return false
}
