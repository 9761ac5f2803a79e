package raftnode

import (
	"context"
	"io"

	"github.com/Focinfi/oncekv/bodies"
)

// StateMachine is what a node replicates. Its methods take plain types, so
// that an implementation needs nothing of this package: a history is a [16]byte here, a
// HistoryID inside.
//
// Apply, Bootstrap and Install are called by one goroutine at a time, with
// indexes that only grow. The other methods may be called at any time from any
// goroutine. An error of Apply, Bootstrap, Install or Durable means that the
// disk cannot be trusted any more: the node stops with it.
type StateMachine interface {
	// Durable returns the newest state that would survive a crash: index and
	// term of its last entry, the meta bytes stored with it, and a
	// description of it (see package kvstore: up to 2 KB, and more for each
	// value that is on its way) that Stage and Install
	// understand on another node. All four belong to the same instant.
	// Index 0 means that nothing was ever stored.
	Durable() (index, term uint64, meta, snapshot []byte, err error)

	// Bootstrap gives a state machine that is empty, or was restored and belongs to no
	// log yet, its first durable position, and the id of the history that begins there.
	Bootstrap(index, term uint64, meta []byte, history [16]byte) error

	// Origin returns what the state was restored from, as long as it belongs to no
	// log: id of the history, position in it, and digest there. ok is false if it was
	// not restored.
	Origin() (history [16]byte, position uint64, head []byte, ok bool)

	// Apply executes the commands of one committed entry, in order, and
	// returns one result each. It must depend on nothing but its arguments
	// and the state. A meta that is not nil replaces the stored one in the
	// same transaction that stores the index. It may block to limit memory.
	Apply(index, term uint64, commands [][]byte, meta []byte) ([]any, error)

	// Fork is Apply of an entry without commands with which another history begins:
	// the state goes on as it is, and remembers what it went on from.
	Fork(index, term uint64, meta []byte, history [16]byte) error

	// Level returns the level that a program must know to carry out a command, see
	// internal/level. The error is a *level.LaterError for a command that this program
	// does not know, and another one for what is none. It looks at the first
	// bytes only: Apply answers what is malformed otherwise.
	Level(command []byte) (uint64, error)

	// Body returns the body of Config.Bodies that a command refers to; ok is false
	// if it refers to none. It looks at the first bytes only, is cheap, and answers
	// for what no state machine would have proposed as well: it may be anything.
	Body(command []byte) (ref bodies.Ref, ok bool)

	// Recovered is called once, when the node holds every body that its log needs.
	// From now on what nobody counts on may be reclaimed.
	Recovered()

	// Resolve tells what Apply would have answered to a command whose effect
	// is already part of the state. decided is false if it is not.
	Resolve(command []byte) (result any, decided bool, err error)

	// Stage pulls whatever this state lacks of a snapshot into a durable
	// side area and verifies it, without changing the state. fetch asks
	// another node's Serve, fetchBodies its Config.Bodies. An interrupted Stage is
	// resumed by the next one.
	Stage(ctx context.Context, snapshot []byte, fetch func(ctx context.Context, query string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error

	// Install makes the staged data the state at index. Repeating it after a
	// crash finishes it.
	Install(index, term uint64, meta, snapshot []byte) error

	// Position returns how far the history of this state goes: it grows alike on
	// every node. Digest returns what identifies the history up to a position:
	// nodes where it is the same have the same history up to there. A position
	// beyond the state's own is an error.
	Position() uint64
	Digest(position uint64) ([]byte, error)

	// Serve answers one fetch of another node's Stage.
	Serve(ctx context.Context, query string, w io.Writer) error
}
