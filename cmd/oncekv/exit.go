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

// Exit codes. Scripts rely on them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitConflict = 4
	exitUnknown  = 5
	// exitGone is for client commands: the value was retired and will never come back.
	exitGone = 6
	// exitDisk is for a database node whose disk failed. A restart would only say it again.
	exitDisk = 6
	// exitHistory means that what was read before may have changed.
	exitHistory = 7
	// exitNoReader is what a shell reports for a program that SIGPIPE ended, as it ends most
	// programs when their reader goes away.
	exitNoReader = 128 + 13
)

// usageError is a wrong command line or environment.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// errConflicts means that an import found keys set to other bytes.
var errConflicts = errors.New("some keys are set to other bytes; they were not changed")

// isUsage reports whether err comes from the command line or the environment, so that the next
// try with the same ones fails alike.
func isUsage(err error) bool {
	var usage *usageError
	var setting *server.SettingError
	return errors.As(err, &usage) || errors.As(err, &setting) || errors.Is(err, server.ErrDescriptors)
}

// isOtherVersion reports whether only another version of the program can go on.
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

// report shows err to the user, and where to read on.
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
