package kvstore

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// wholeMeta decodes meta, which has no end of its own: the log knows what is whole.
func wholeMeta(want string) func(b []byte) error {
	return func(b []byte) error {
		meta, err := decodeMeta(b)
		if err == nil && string(meta) != want {
			err = fmt.Errorf("it is %q", meta)
		}
		return err
	}
}

// What is stored says in which format: a program that does not know it says so, and
// nothing is cut off or added without being found out.
func TestState_OtherFormats(t *testing.T) {
	t.Parallel()
	id := uploadID{1}
	u := newUpload(1)
	u.add([]byte("some bytes"), 2)
	for name, c := range map[string]struct {
		key, sound []byte
		decode     func(b []byte) error
	}{
		"position": {keyApplied, encodeApplied(&appliedState{index: 1}), func(b []byte) error { _, err := decodeApplied(b); return err }},
		"history": {keyHistory, encodeLineage(&History{ID: HistoryID{1}, Parents: []Origin{{ID: HistoryID{2}, Revision: 3}}}), func(b []byte) error {
			c, err := openState(stateFormat, keyHistory, b)
			if err != nil {
				return err
			}
			readHistory(&c, 3)
			return c.end()
		}},
		"meta":     {keyMeta, encodeMeta([]byte("a table")), wholeMeta("a table")},
		"progress": {keyProgress, encodeProgress(&progress{}), func(b []byte) error { _, err := decodeProgress(b); return err }},
		"upload":   {id[:], encodeUpload(id, u), func(b []byte) error { _, err := decodeUpload(id, b); return err }},
	} {
		seal := func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[1:], checksum(c.key, b))
			return b
		}
		if err := c.decode(c.sound); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		other := append([]byte{99}, c.sound[1:]...)
		if err := c.decode(seal(other)); err == nil || !strings.Contains(err.Error(), "later version of oncekv") {
			t.Errorf("%s of another format: %v", name, err)
		}
		other[0] = c.sound[0]
		if err := c.decode(other); err == nil || !strings.Contains(err.Error(), "checksum") {
			t.Errorf("%s with another checksum: %v", name, err)
		}
		for n := range c.sound {
			if n >= statePrefixBytes {
				other = seal(append([]byte{}, c.sound[:n]...))
			} else {
				other = c.sound[:n]
			}
			if err := c.decode(other); err == nil {
				t.Errorf("%s: %d of %d bytes pass", name, n, len(c.sound))
			}
		}
		for _, more := range [][]byte{{2}, {1, 0}} {
			if err := c.decode(seal(append(append([]byte{}, c.sound...), more...))); err == nil {
				t.Errorf("%s: with %x behind its end it passes", name, more)
			}
		}
	}
}
