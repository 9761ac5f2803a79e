package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/server"
)

// Exit codes; scripts rely on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
	exitUnknown  = 5
	// exitGone is that of a client's command for a value that was retired. It will
	// never be there again.
	exitGone = 6
	// exitDisk is that of a database node whose disk failed. Started again, it would
	// only say so.
	exitDisk = 6
	// exitHistory says that what was read before need not be what is there now.
	exitHistory = 7
	// exitNoReader is what a shell reports of a program that SIGPIPE ended, as most
	// do when their reader goes.
	exitNoReader = 128 + 13
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
var errConflicts = errors.New("some keys are set to other bytes; they were not changed")

// isUsage reports whether an error is one of the command line or the environment:
// the next try with the same ones will end alike.
func isUsage(err error) bool {
	var usage *usageError
	var setting *server.SettingError
	return errors.As(err, &usage) || errors.As(err, &setting) || errors.Is(err, server.ErrDescriptors)
}

// isOtherVersion reports whether it takes another version of the program to go on.
func isOtherVersion(err error) bool {
	return errors.As(err, new(*level.LaterError)) || errors.As(err, new(*level.EarlierError))
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case isUsage(err), isOtherVersion(err):
		return exitUsage
	case errors.Is(err, api.ErrNotFound):
		return exitNotFound
	case errors.Is(err, api.ErrExists), errors.Is(err, errConflicts):
		return exitConflict
	case errors.Is(err, api.ErrOutcomeUnknown):
		return exitUnknown
	case errors.Is(err, api.ErrGone):
		return exitGone
	case errors.Is(err, api.ErrHistoryChanged):
		return exitHistory
	case errors.Is(err, server.ErrDiskFailed):
		return exitDisk
	}
	return exitFailed
}

// report tells the user about err, and where to read on.
func report(stderr io.Writer, command string, err error) {
	if err == nil {
		return
	}
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(stderr, "oncekv: %s\n", strings.Join(linesOf(err), "\n"))
	if isUsage(err) {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command)
	}
}
