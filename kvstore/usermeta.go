package kvstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/Focinfi/oncekv/api"
)

const (
	userMetaBytesMax = 2 << 10 // names and values together
	userMetaNamesMax = 64      // many HTTP clients take no more than 100 headers
)

// UserMeta is the names and values that a put stored with its value. It never changes, and
// == compares. The zero UserMeta has no names.
type UserMeta struct {
	encoded string // as a record has it: in the order of the names
}

// MakeUserMeta makes a UserMeta of names and values: names of 1 to 64 lower-case
// letters, digits and '-', values of printable ASCII without a space at either end, at
// most 64 of them and 2 KiB together. Errors wrap ErrInvalidMeta.
func MakeUserMeta(values map[string]string) (UserMeta, error) {
	if len(values) > userMetaNamesMax {
		return UserMeta{}, fmt.Errorf("%w: there are %d names, the limit is %d", ErrInvalidMeta, len(values), userMetaNamesMax)
	}
	var b []byte
	total := 0
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		if err := api.CheckMeta(name, value); err != nil {
			return UserMeta{}, fmt.Errorf("%w: %w", ErrInvalidMeta, err)
		}
		if total += len(name) + len(value); total > userMetaBytesMax {
			return UserMeta{}, fmt.Errorf("%w: names and values are over %d bytes together", ErrInvalidMeta, userMetaBytesMax)
		}
		b = append(append(b, byte(len(name))), name...)
		b = append(binary.AppendUvarint(b, uint64(len(value))), value...)
	}
	return UserMeta{string(b)}, nil
}

// checkEncodedUserMeta refuses what MakeUserMeta does not make: there is one encoding
// of each.
func checkEncodedUserMeta(b []byte) error {
	if len(b) == 0 {
		return errors.New("empty metadata is spelled out")
	}
	c, last, total := cursor{b: b}, "", 0
	for names := 0; len(c.b) > 0 && c.err == nil; names++ {
		name, value := c.userMetaPair()
		if c.err != nil {
			break
		}
		if names == userMetaNamesMax {
			return fmt.Errorf("metadata of more than %d names", userMetaNamesMax)
		}
		if name <= last {
			return fmt.Errorf("the metadata names %q and %q are not in order", last, name)
		}
		if err := api.CheckMeta(name, value); err != nil {
			return err
		}
		if total += len(name) + len(value); total > userMetaBytesMax {
			return fmt.Errorf("metadata of more than %d bytes", userMetaBytesMax)
		}
		last = name
	}
	return c.err
}

func (c *cursor) userMetaPair() (name, value string) {
	name = string(c.take(int(c.byte())))
	return name, string(c.take(int(min(c.uvarint(), userMetaBytesMax+1))))
}

// All returns the names and their values, in the order of the names.
func (m UserMeta) All() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for c := (cursor{b: []byte(m.encoded)}); len(c.b) > 0; {
			if name, value := c.userMetaPair(); c.err != nil || !yield(name, value) {
				return
			}
		}
	}
}

// IsZero reports whether m has no names.
func (m UserMeta) IsZero() bool { return m.encoded == "" }

// Map returns the names and values as a map of its own, nil if there are none.
func (m UserMeta) Map() map[string]string {
	if m.IsZero() {
		return nil
	}
	return maps.Collect(m.All())
}

// Bytes is about the memory that m takes.
func (m UserMeta) Bytes() int { return len(m.encoded) }

// MarshalJSON returns an object.
func (m UserMeta) MarshalJSON() ([]byte, error) {
	return json.Marshal(maps.Collect(m.All()))
}

// UnmarshalJSON reads an object, as MakeUserMeta takes it.
func (m *UserMeta) UnmarshalJSON(b []byte) error {
	var values map[string]string
	if err := json.Unmarshal(b, &values); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidMeta, err)
	}
	made, err := MakeUserMeta(values)
	if err == nil {
		*m = made
	}
	return err
}
