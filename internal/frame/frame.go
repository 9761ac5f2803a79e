package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Sizes, in bytes.
const (
	ValueBytesMax = 64 << 10                      // of a value in a frame; larger ones travel alone
	BytesMax      = ValueBytesMax + fieldBytesMax // of a frame, its head included

	headBytes     = 9
	lengthBytes   = 4
	digestBytes   = 32
	plainBytesMax = 2 << 10 // of everything but the value and metadata
	metaBytesMax  = 6 << 10 // of metadata, as it is encoded
	fieldBytesMax = plainBytesMax + metaBytesMax
	detailMax     = 32 << 10
)

// Kind says what a frame is.
type Kind byte

// The kinds of frames.
const (
	KindPut     Kind = 0x01
	KindGet     Kind = 0x02
	KindSet     Kind = 0x81
	KindValue   Kind = 0x82
	KindLarge   Kind = 0x83
	KindProblem Kind = 0xff
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case KindPut:
		return "put"
	case KindGet:
		return "get"
	case KindSet:
		return "set"
	case KindValue:
		return "value"
	case KindLarge:
		return "large"
	case KindProblem:
		return "problem"
	}
	return fmt.Sprintf("0x%02x", byte(k))
}

// ErrMalformed is what every error about the bytes of a frame wraps.
var ErrMalformed = errors.New("malformed frame")

// Put asks to set a key. The conditions are those of PUT /key/{key}.
type Put struct {
	ID          uint32
	IfAbsent    bool              // If-None-Match: *
	Keep        bool              // ?on-conflict=keep
	HasDigest   bool              // Repr-Digest is given
	Digest      [digestBytes]byte // SHA-256 of the value, if HasDigest
	PutID       string            // at most 255 bytes; "" for none
	ContentType string            // at most 255 bytes; "" for none
	Key         string
	Meta        map[string]string // Oncekv-Meta-NAME, names with their values; see MetaFits
	Value       []byte
}

// Get asks for the value of a key.
type Get struct {
	ID    uint32
	Local bool // ?consistency=local
	Key   string
}

// Winner is what a key is set to.
type Winner struct {
	Revision uint64
	Size     uint64
	Digest   [digestBytes]byte
}

// Set answers a put that was no error.
type Set struct {
	ID      uint32
	Created bool
	Winner
}

// Value answers a get of a key that is set.
type Value struct {
	ID          uint32
	Revision    uint64
	Time        int64 // nanoseconds since 1970, UTC
	Digest      [digestBytes]byte
	Cache       string // hit, peer or load on a cache node, else ""
	ContentType string
	By          string            // who put it, at most 255 bytes; "" in a cluster that is open to all
	Meta        map[string]string // as in Put
	Value       []byte
}

// Problem answers a request that failed, as a problem document does.
type Problem struct {
	ID         uint32 // 0: it is about the stream, and the last frame
	Status     uint16
	RetryAfter uint16 // seconds; 0: nothing is said
	Type       string
	Title      string
	Detail     string
	HasWinner  bool
	Winner     Winner
	HasLimit   bool
	Limit      uint64 // bytes
}

const (
	flagIfAbsent  = 1
	flagKeep      = 2
	flagDigest    = 4
	flagPutMeta   = 8
	flagLocal     = 1
	flagCreated   = 1
	flagBy        = 1
	flagValueMeta = 2
	flagHasWinner = 1
	flagHasLimit  = 2
)

// PutFits reports whether a put fits a frame, if its metadata does (see MetaFits).
// The sizes are in bytes.
func PutFits(key, contentType, putID string, valueBytes int64) bool {
	return valueBytes <= ValueBytesMax && len(contentType) <= 255 && len(putID) <= 255 &&
		len(key)+len(contentType)+len(putID)+headBytes+digestBytes+8 <= plainBytesMax
}

// MetaFits reports whether metadata fits a frame. All that a node takes does.
func MetaFits(meta map[string]string) bool {
	bytes := 0
	for name, value := range meta {
		if name == "" || len(name) > 255 {
			return false
		}
		if bytes += 3 + len(name) + len(value); bytes > metaBytesMax-2 {
			return false
		}
	}
	return true
}

// AppendPut appends p, which must fit (see PutFits and MetaFits).
func AppendPut(b []byte, p *Put) []byte {
	b, at := begin(b, KindPut, p.ID)
	b = append(b, flag(p.IfAbsent, flagIfAbsent)|flag(p.Keep, flagKeep)|flag(p.HasDigest, flagDigest)|flag(len(p.Meta) > 0, flagPutMeta))
	if p.HasDigest {
		b = append(b, p.Digest[:]...)
	}
	b = appendShort(b, p.PutID)
	b = appendShort(b, p.ContentType)
	b = appendLong(b, p.Key)
	if len(p.Meta) > 0 {
		b = appendMeta(b, p.Meta)
	}
	b = append(b, p.Value...)
	return finish(b, at)
}

// AppendGet appends g.
func AppendGet(b []byte, g *Get) []byte {
	b, at := begin(b, KindGet, g.ID)
	b = append(b, flag(g.Local, flagLocal))
	b = append(b, g.Key...)
	return finish(b, at)
}

// AppendSet appends s.
func AppendSet(b []byte, s *Set) []byte {
	b, at := begin(b, KindSet, s.ID)
	b = append(b, flag(s.Created, flagCreated))
	b = appendWinner(b, &s.Winner)
	return finish(b, at)
}

// AppendValue appends v, whose value has ValueBytesMax at most and whose metadata
// fits (see MetaFits).
func AppendValue(b []byte, v *Value) []byte {
	b, at := begin(b, KindValue, v.ID)
	b = append(b, flag(v.By != "", flagBy)|flag(len(v.Meta) > 0, flagValueMeta))
	b = binary.BigEndian.AppendUint64(b, v.Revision)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Time))
	b = append(b, v.Digest[:]...)
	b = appendShort(b, v.Cache)
	b = appendShort(b, v.ContentType)
	if v.By != "" {
		b = appendShort(b, v.By)
	}
	if len(v.Meta) > 0 {
		b = appendMeta(b, v.Meta)
	}
	b = append(b, v.Value...)
	return finish(b, at)
}

// AppendLarge appends the answer to the get with this id of a value that is too
// large for a frame.
func AppendLarge(b []byte, id uint32) []byte {
	b, at := begin(b, KindLarge, id)
	return finish(b, at)
}

// AppendProblem appends p, cutting a detail of over 32 KiB.
func AppendProblem(b []byte, p *Problem) []byte {
	b, at := begin(b, KindProblem, p.ID)
	b = binary.BigEndian.AppendUint16(b, p.Status)
	b = binary.BigEndian.AppendUint16(b, p.RetryAfter)
	b = append(b, flag(p.HasWinner, flagHasWinner)|flag(p.HasLimit, flagHasLimit))
	b = appendShort(b, p.Type)
	b = appendShort(b, p.Title)
	b = appendLong(b, p.Detail[:min(len(p.Detail), detailMax)])
	if p.HasWinner {
		b = appendWinner(b, &p.Winner)
	}
	if p.HasLimit {
		b = binary.BigEndian.AppendUint64(b, p.Limit)
	}
	return finish(b, at)
}

// begin appends a head; finish fills in its length.
func begin(b []byte, kind Kind, id uint32) (_ []byte, at int) {
	at = len(b)
	b = append(b, 0, 0, 0, 0, byte(kind))
	return binary.BigEndian.AppendUint32(b, id), at
}

func finish(b []byte, at int) []byte {
	n := len(b) - at
	if n > BytesMax {
		panic(fmt.Sprintf("frame: %d bytes, more than %d", n, BytesMax)) // the caller has not checked
	}
	binary.BigEndian.PutUint32(b[at:], uint32(n-lengthBytes))
	return b
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

func appendShort(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func appendLong(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendMeta appends names and values in the order of the names, behind their length.
func appendMeta(b []byte, meta map[string]string) []byte {
	at := len(b)
	b = append(b, 0, 0)
	for _, name := range slices.Sorted(maps.Keys(meta)) {
		b = appendShort(b, name)
		b = appendLong(b, meta[name])
	}
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

func appendWinner(b []byte, w *Winner) []byte {
	b = binary.BigEndian.AppendUint64(b, w.Revision)
	b = binary.BigEndian.AppendUint64(b, w.Size)
	return append(b, w.Digest[:]...)
}
