package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/client"
)

// Exit codes; scripts rely on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
	exitUnknown  = 5
)

// usageError is a command line, or environment, that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *usageError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// errConflicts is an import in which keys were set to other bytes.
var errConflicts = errors.New("some keys are set to other bytes, and stay so")

func exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrNotFound):
		return exitNotFound
	case errors.Is(err, client.ErrExists), errors.Is(err, errConflicts):
		return exitConflict
	case errors.Is(err, client.ErrOutcomeUnknown):
		return exitUnknown
	}
	return exitFailed
}

// report tells the user about err, in one line and where to read on.
func report(stderr io.Writer, command string, err error) {
	if err == nil {
		return
	}
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(stderr, "oncekv: %v\n", err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command)
	}
}
