package kvstore

import (
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/Focinfi/oncekv/api"
)

const ()

// PutRequest asks to set a key.
type PutRequest struct {
	Key         Key
	ContentType string    // "" means DefaultContentType
	PutID       string    // 1 to 64 visible ASCII characters; "" lets DB.Put choose one
	Body        io.Reader // read once, to its end; nil is empty
	Size        int64     // bytes in Body, -1 when unknown
	SHA256      *Digest   // digest the body must have, nil for any
	By          string    // principal that puts, at most 128 bytes; empty if the cluster is open to all
	UserMeta    UserMeta  // kept with the value, and given back with it

	// From is the address of the sender. Interrupt makes Read of the body fail soon; Put calls
	// it when a slow body must give way. It must not block. nil: never slow.
	From      string
	Interrupt func()
}

// SmallPut is a put whose value is in memory, for DB.PutMany.
type SmallPut struct {
	Key         Key
	ContentType string  // "" means DefaultContentType
	PutID       string  // 1 to 64 visible ASCII characters; "" lets DB.PutMany choose one
	Value       []byte  // at most ChunkBytes; not changed, and not kept
	SHA256      *Digest // digest the value must have, nil for any
	By          string  // as in PutRequest
	UserMeta    UserMeta
}

// request is the put without its value.
func (p *SmallPut) request() PutRequest {
	return PutRequest{Key: p.Key, ContentType: p.ContentType, PutID: p.PutID, Size: int64(len(p.Value)), By: p.By, UserMeta: p.UserMeta}
}

// Outcome says what became of a put.
type Outcome int

const (
	Created   Outcome = iota + 1 // the key is set by this put
	Unchanged                    // the key was already set to the same bytes
	Conflict                     // the key was already set to other bytes
)

// String returns "created", "unchanged" or "conflict".
func (o Outcome) String() string {
	switch o {
	case Created:
		return "created"
	case Unchanged:
		return "unchanged"
	case Conflict:
		return "conflict"
	}
	return "outcome " + strconv.Itoa(int(o))
}

// PutResult is the answer to a put.
type PutResult struct {
	Outcome Outcome // Created also for a repeat of the put that won: same id, same bytes
	Meta    Meta    // of the winner, whoever that is
}

// outcomeAgainst says what a put with this id and digest is when winner holds its key.
func outcomeAgainst(winner *Meta, putID string, sum *Digest) Outcome {
	switch {
	case winner.SHA256 != *sum:
		return Conflict
	case winner.PutID == putID:
		return Created
	}
	return Unchanged
}

// validateContentType accepts a media type by the rules of MIME, with what may follow it.
func validateContentType(ct string) error {
	if ct == DefaultContentType {
		return nil
	}
	if _, err := api.MediaType(ct); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidContentType, err)
	}
	return nil
}

// checkContentType is what replicas rely on. It accepts more than validateContentType: what
// MIME accepts may change with the Go release, earlier versions took tabs and other
// characters than ASCII, and replicas must never disagree.
func checkContentType(ct string) error {
	if len(ct) > api.ContentTypeBytesMax {
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrInvalidContentType, len(ct), api.ContentTypeBytesMax)
	}
	for i := 0; i < len(ct); i++ {
		if ct[i] < ' ' && ct[i] != '\t' || ct[i] == 0x7f {
			return fmt.Errorf("%w %q: byte %d is a control character", ErrInvalidContentType, ct, i)
		}
	}
	return nil
}

// validatePutID accepts 1 to 64 visible ASCII characters.
func validatePutID(id string) error {
	if err := api.CheckPutID(id); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidPutID, err)
	}
	return nil
}

// newPutID returns an id that no other put has: 16 random bytes in hex.
func newPutID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make a put id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}
