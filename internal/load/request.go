package load

import (
	"context"
	"errors"
	"fmt"
)

// Kind is what a request does.
type Kind uint8

// The kinds of requests.
const (
	Put    Kind = iota // set one key
	Get                // read a key that is set
	Absent             // read a key that is not set
	Batch              // set many keys
	kinds              // how many there are
)

var kindNames = [kinds]string{"put", "get", "absent", "batch"}

// String returns the kind's name on the command line and in JSON.
func (k Kind) String() string { return kindNames[k] }

// ParseKind returns the kind with this name.
func ParseKind(name string) (Kind, error) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("%q is not one of put, get, absent, batch", name)
}

// Item is a key and its value.
type Item struct {
	Key   string
	Value []byte // never changes
}

// Request is one request to send. Items belongs to the caller's goroutine, which reuses it for
// its next request.
type Request struct {
	Kind  Kind
	Item         // of Put; of Get, with the value that must be found; of Absent, without
	Items []Item // of Batch
}

// Outcome is the result for one key.
type Outcome uint8

// The outcomes of keys.
const (
	Created   Outcome = iota // this request set it
	Unchanged                // it was set to the same value before
	Conflict                 // it was set to another value before
	Found                    // it was read
	NotFound                 // it is not set
	outcomes                 // how many there are
)

var outcomeNames = [outcomes]string{"created", "unchanged", "conflict", "found", "not_found"}

// String returns the outcome's name in JSON.
func (o Outcome) String() string { return outcomeNames[o] }

// Tally counts keys by their outcomes.
type Tally [outcomes]uint64

func (t *Tally) add(o *Tally) {
	for i, n := range o {
		t[i] += n
	}
}

func (t *Tally) keys() (n uint64) {
	for _, m := range t {
		n += m
	}
	return n
}

// Caller sends requests and waits for their answers, one at a time. Run calls each from one
// goroutine.
type Caller interface {
	// Call sends r once and reads the whole answer. It counts the outcome of every key in t. A
	// *Failure says which kind of error it was. ctx ends when the run is interrupted.
	Call(ctx context.Context, r *Request, t *Tally) error

	// Close releases what the caller holds. No Call is running.
	Close() error
}

// Failure is a request without a good answer. Errors are counted by Kind, a word or two such
// as "timeout" or "HTTP 503".
type Failure struct {
	Kind string
	Err  error
}

// Error says what went wrong.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// ErrWrongValue means that a get returned another value than was set.
var ErrWrongValue = &Failure{Kind: "wrong value", Err: errors.New("a value that was read is not the one that was set")}
