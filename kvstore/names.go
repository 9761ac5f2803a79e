package kvstore

import (
	"encoding/hex"
	"fmt"

	"github.com/Focinfi/oncekv/api"
)

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = api.KeyBytesMax

// Key names a value: 1 to MaxKeyBytes bytes, any but NUL. It need not be UTF-8.
type Key string

// Validate returns nil, or an error that wraps ErrInvalidKey and says what is
// wrong with k.
func (k Key) Validate() error {
	if err := api.CheckKey(string(k)); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidKey, err)
	}
	return nil
}

// Revision counts the winning puts of a store: the first is 1, and there are
// no gaps. 0 stands for the empty store.
type Revision uint64

// Digest is a SHA-256 digest: of a value, or of a whole history.
type Digest [32]byte

// String returns d in lower-case hex, 64 characters.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what Digest.String wrote; upper-case hex is accepted too.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return Digest{}, fmt.Errorf("SHA-256 digest in hex has %d characters, want %d", len(s), 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("SHA-256 digest %q: %w", s, err)
	}
	return d, nil
}
