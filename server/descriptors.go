package server

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
)

// connectionsMax is the default limit of connections of a listener.
const connectionsMax = 16384

// The parts of the budget of open files. Some files a node needs however many clients it
// has: those of the store, the log and its snapshots, its listeners and the runtime. The
// rest is divided among its listeners and the files and connections that it opens for them.
const (
	processFiles  = 16
	databaseFiles = 96 // includes 32 value segments and a dozen index runs
	disklessFiles = 32 // a cache node or an admin

	clientParts   = 4
	peerParts     = 2
	databaseParts = clientParts + peerParts + 2 // two: spilled results, and connections to other members
	cacheParts    = clientParts + 4             // as many connections go out to database and cache nodes as come in
	adminParts    = 2 + 2

	partMin = 8
)

// ErrDescriptors is returned when the limit of open files is too low for a process's nodes.
var ErrDescriptors = errors.New("too few files may be open")

// NodeCounts counts the nodes that one process runs.
type NodeCounts struct{ Databases, Caches, Admins int }

// Descriptors divides the files that a process may have open (`ulimit -n`) among its nodes,
// and each node's among its listeners and its files. No number of connections keeps a node
// from opening a file, and clients never keep peers out. It is immutable.
type Descriptors struct{ part int }

// NewDescriptors divides the process's current limit. It returns ErrDescriptors if that is
// too low for these nodes.
func NewDescriptors(n NodeCounts) (*Descriptors, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("look at the limit of open files: %w", err)
	}
	return divide(int(min(files.Cur, 1<<30)), n)
}

func divide(limit int, n NodeCounts) (*Descriptors, error) {
	own := processFiles + n.Databases*databaseFiles + (n.Caches+n.Admins)*disklessFiles
	parts := n.Databases*databaseParts + n.Caches*cacheParts + n.Admins*adminParts
	if part := (limit - own) / parts; part >= partMin {
		return &Descriptors{part: part}, nil
	}
	return nil, fmt.Errorf("%w: this process may have %d files and connections open, and needs at least %d: raise the limit (ulimit -n, LimitNOFILE= in a systemd unit)",
		ErrDescriptors, limit, own+partMin*parts)
}

// orOwn returns d or, if d is nil, the whole budget of a process that runs these nodes.
func (d *Descriptors) orOwn(n NodeCounts) (*Descriptors, error) {
	if d != nil {
		return d, nil
	}
	return NewDescriptors(n)
}

// database returns the limits of a database node's two listeners. asked is the configured
// number of clients, 0 for the default. Clients may get parts of the others, but not the
// last part of any.
func (d *Descriptors) database(asked int, logger *slog.Logger) (clients, peers int) {
	clients = d.clients(asked, clientParts, databaseParts-2, logger)
	left := databaseParts*d.part - clients
	return clients, min(connectionsMax, peerParts*d.part, max(d.part, left/2))
}

// cache returns the limit of a cache node's listener.
func (d *Descriptors) cache(asked int, logger *slog.Logger) int {
	return d.clients(asked, clientParts, cacheParts-1, logger)
}

// admin returns the limit of an admin's listener.
func (d *Descriptors) admin(asked int, logger *slog.Logger) int {
	return d.clients(asked, adminParts/2, adminParts-1, logger)
}

// clients returns what was asked for, at most most parts, or the usual parts by default.
func (d *Descriptors) clients(asked, usual, most int, logger *slog.Logger) int {
	switch fit := most * d.part; {
	case asked <= 0:
		return min(connectionsMax, usual*d.part)
	case asked > fit:
		logger.Warn("the limit of open files is too low for --max-connections: raise it (ulimit -n, LimitNOFILE=)", "asked", asked, "connections", fit)
		return fit
	}
	return asked
}
