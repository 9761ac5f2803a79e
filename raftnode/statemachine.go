package raftnode

import (
	"context"
	"io"
	"sync"

	"github.com/Focinfi/oncekv/bodies"
)

// StateMachine is what a node replicates. Its methods take plain types, so that an
// implementation needs nothing of this package: a history is a [16]byte.
//
// Apply, Bootstrap, Fork and Install are called by one goroutine at a time, with
// indexes that only grow; the others at any time from any goroutine. An error of Apply,
// Bootstrap, Fork, Install or Durable means that the disk cannot be trusted any more:
// the node stops with it.
type StateMachine interface {
	// Durable returns the newest state that would survive a crash: index and term of its
	// last entry, the meta bytes stored with it, and a description of it that Stage and
	// Install understand on another node (usually up to 2 KB). All four belong to the
	// same instant. Index 0 means that nothing was ever stored.
	Durable() (index, term uint64, meta, snapshot []byte, err error)

	// Bootstrap gives a state machine that is empty, or was restored and belongs to no
	// log yet, its first durable index, and the ID of the history that begins there.
	Bootstrap(index, term uint64, meta []byte, history [16]byte) error

	// Origin returns what the state was restored from, as long as it belongs to no log:
	// ID of the history, revision in it, and digest there. ok is false if it was not
	// restored.
	Origin() (history [16]byte, revision uint64, head []byte, ok bool)

	// Apply executes the commands of one committed entry, in order, and returns one
	// result each. It depends on nothing but its arguments and the state. A meta that is
	// not nil replaces the stored one in the transaction that stores the index. It may
	// block to limit memory.
	Apply(index, term uint64, commands [][]byte, meta []byte) ([]any, error)

	// Fork is Apply of an entry without commands with which another history begins: the
	// state goes on as it is, and remembers what it went on from.
	Fork(index, term uint64, meta []byte, history [16]byte) error

	// Level returns the level that a program must know to carry out a command, see
	// internal/level. The error is a *level.LaterError for a command that this program
	// does not know, and another one for what is none. It looks at the first bytes only:
	// Apply answers what is malformed otherwise.
	Level(command []byte) (uint64, error)

	// Body returns the body of Config.Bodies that a command refers to; ok is false if it
	// refers to none. It looks at the first bytes only and is cheap. The command may be
	// anything.
	Body(command []byte) (ref bodies.Ref, ok bool)

	// Recovered is called once, when the node holds every body that its log needs. From
	// now on others may be reclaimed.
	Recovered()

	// Resolve tells what Apply would have answered to a command whose effect is already
	// part of the state. decided is false if it is not.
	Resolve(command []byte) (result any, decided bool, err error)

	// Stage pulls what this state lacks of a snapshot into a durable side area and
	// verifies it, without changing the state. fetch asks another node's Serve,
	// fetchBodies its Config.Bodies. The next Stage resumes an interrupted one.
	Stage(ctx context.Context, snapshot []byte, fetch func(ctx context.Context, query string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error

	// Install makes the staged data the state at index. Repeating it after a crash
	// finishes it.
	Install(index, term uint64, meta, snapshot []byte) error

	// Position returns how far the history of this state goes: it grows alike on every
	// node. Digest identifies the history up to a position: nodes with the same digest
	// have the same history up to there. A position beyond the state's own is an error.
	Position() uint64
	Digest(position uint64) ([]byte, error)

	// Serve answers one fetch of another node's Stage.
	Serve(ctx context.Context, query string, w io.Writer) error
}

// historyDigest keeps the digest that was asked for last: members that are behind or differ
// ask for the same again and again.
type historyDigest struct {
	mu       sync.Mutex // held while one is computed: one at a time is enough
	position uint64
	digest   []byte
}

// of returns the digest of a state up to a position.
func (h *historyDigest) of(sm StateMachine, position uint64) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.digest != nil && h.position == position {
		return h.digest, nil
	}
	digest, err := sm.Digest(position)
	if err == nil {
		h.position, h.digest = position, digest
	}
	return digest, err
}
