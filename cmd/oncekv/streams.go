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

// errReaderGone is why nothing more can be written to an output: it is a pipe, or
// a socket, and nobody reads from it any more.
var errReaderGone = errors.New("the reader of the output is gone")

// survivePipes makes a write to a pipe without a reader an error. By itself the Go
// runtime ends a process that writes to such a standard output or standard error, by
// SIGPIPE: a node would end with its first log line after, say, its log shipper died,
// and systemd takes that signal for a clean end.
func survivePipes() { signal.Ignore(syscall.SIGPIPE) }

// output is standard output, or what -o names in its place. It fails with
// errReaderGone.
type output struct{ io.Writer }

// outputError is why output could not be written, which is no fault of the command
// line even while that is still read, as with --version.
type outputError struct{ error }

func (e *outputError) Unwrap() error { return e.error }

// Write implements io.Writer.
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

// messages is standard error. Whatever happens there, what a command does does not
// depend on it: a message that nobody reads is lost.
type messages struct{ io.Writer }

// Write implements io.Writer.
func (m messages) Write(p []byte) (int, error) {
	_, _ = m.Writer.Write(p)
	return len(p), nil
}

// newMessages leaves a terminal as it is, which is asked what it is later.
func newMessages(stderr io.Writer) io.Writer {
	if isTerminal(stderr) {
		return stderr
	}
	return messages{stderr}
}

// told is how showing the result of what is done already ended. That nobody reads it
// does not undo it.
func told(err error) error {
	if errors.Is(err, errReaderGone) {
		return nil
	}
	return err
}

// besidesReader is err without what comes from errReaderGone.
func besidesReader(err error) error {
	if !errors.Is(err, errReaderGone) {
		return err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var rest []error
	for _, e := range joined.Unwrap() {
		rest = append(rest, besidesReader(e))
	}
	return errors.Join(rest...)
}

// whileRead returns a context that ends, because of errReaderGone, when standard
// output has lost its reader. It is for commands that may have nothing to write for a
// long time, and so would not find out. stop ends the looking.
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

// stdoutFile is standard output if it can lose its reader.
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

// readerLookEvery is how long one look for a reader may wait.
const readerLookEvery = 200 // milliseconds

// readerGone returns true when file has lost its reader, false when ctx has ended
// first or the system does not tell.
func readerGone(ctx context.Context, file *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(file.Fd())}} // no events: only what is always reported
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
