package frame

import (
	"encoding/binary"
	"fmt"
)

// Frame is one that was read. Its body is valid until the next one is.
type Frame struct {
	Kind Kind
	ID   uint32
	body []byte
}

// Body returns what follows the head.
func (f *Frame) Body() []byte { return f.body }

// Put decodes a frame of KindPut. The value aliases the frame.
func (f *Frame) Put() (Put, error) {
	d := decoder{kind: KindPut, rest: f.body, bad: f.Kind != KindPut}
	p := Put{ID: f.ID}
	flags := d.flags(flagIfAbsent | flagKeep | flagDigest | flagPutMeta)
	p.IfAbsent, p.Keep, p.HasDigest = flags&flagIfAbsent != 0, flags&flagKeep != 0, flags&flagDigest != 0
	if p.HasDigest {
		d.digest(&p.Digest)
	}
	p.PutID, p.ContentType, p.Key = string(d.short()), contentType(d.short()), string(d.long())
	if flags&flagPutMeta != 0 {
		p.Meta = d.meta()
	}
	p.Value = d.all()
	return p, d.err()
}

// Get decodes a frame of KindGet.
func (f *Frame) Get() (Get, error) {
	d := decoder{kind: KindGet, rest: f.body, bad: f.Kind != KindGet}
	g := Get{ID: f.ID, Local: d.flags(flagLocal) != 0}
	g.Key = string(d.all())
	return g, d.err()
}

// Set decodes a frame of KindSet.
func (f *Frame) Set() (Set, error) {
	d := decoder{kind: KindSet, rest: f.body, bad: f.Kind != KindSet}
	s := Set{ID: f.ID, Created: d.flags(flagCreated) != 0}
	d.winner(&s.Winner)
	return s, d.end()
}

// Value decodes a frame of KindValue. The value aliases the frame.
func (f *Frame) Value() (Value, error) {
	d := decoder{kind: KindValue, rest: f.body, bad: f.Kind != KindValue}
	flags := d.flags(flagBy | flagValueMeta)
	v := Value{ID: f.ID, Revision: d.u64(), Time: int64(d.u64())}
	d.digest(&v.Digest)
	v.Cache, v.ContentType = string(d.short()), contentType(d.short())
	if flags&flagBy != 0 {
		v.By = string(d.short())
		d.bad = d.bad || v.By == ""
	}
	if flags&flagValueMeta != 0 {
		v.Meta = d.meta()
	}
	v.Value = d.all()
	return v, d.err()
}

// Large checks a frame of KindLarge.
func (f *Frame) Large() error {
	d := decoder{kind: KindLarge, rest: f.body, bad: f.Kind != KindLarge}
	return d.end()
}

// Problem decodes a frame of KindProblem.
func (f *Frame) Problem() (Problem, error) {
	d := decoder{kind: KindProblem, rest: f.body, bad: f.Kind != KindProblem}
	p := Problem{ID: f.ID, Status: d.u16(), RetryAfter: d.u16()}
	flags := d.flags(flagHasWinner | flagHasLimit)
	p.HasWinner, p.HasLimit = flags&flagHasWinner != 0, flags&flagHasLimit != 0
	p.Type, p.Title, p.Detail = string(d.short()), string(d.short()), string(d.long())
	if len(p.Detail) > detailMax {
		d.bad = true
	}
	if p.HasWinner {
		d.winner(&p.Winner)
	}
	if p.HasLimit {
		p.Limit = d.u64()
	}
	return p, d.end()
}

// contentType saves most values a string of their own.
func contentType(b []byte) string {
	const usual = "application/octet-stream"
	if string(b) == usual {
		return usual
	}
	return string(b)
}

// decoder takes fields off the front of a body. After the first that is not
// there it returns zeros, and err says so.
type decoder struct {
	kind Kind
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || len(d.rest) < n {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// flags takes a byte of which only the known bits may be set.
func (d *decoder) flags(known byte) byte {
	b := d.take(1)
	if b == nil {
		return 0
	}
	if b[0]&^known != 0 {
		d.bad = true
	}
	return b[0]
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) short() []byte {
	n := d.take(1)
	if n == nil {
		return nil
	}
	return d.take(int(n[0]))
}

func (d *decoder) long() []byte { return d.take(int(d.u16())) }

func (d *decoder) digest(into *[digestBytes]byte) { copy(into[:], d.take(digestBytes)) }

func (d *decoder) winner(w *Winner) {
	w.Revision, w.Size = d.u64(), d.u64()
	d.digest(&w.Digest)
}

// meta takes names and values, which are in the order of the names.
func (d *decoder) meta() map[string]string {
	pairs := decoder{kind: d.kind, rest: d.long(), bad: d.bad}
	meta, last := make(map[string]string), ""
	for len(pairs.rest) > 0 && !pairs.bad {
		name, value := string(pairs.short()), string(pairs.long())
		pairs.bad = pairs.bad || name <= last
		meta[name], last = value, name
	}
	if d.bad = pairs.bad || len(meta) == 0; d.bad {
		return nil
	}
	return meta
}

func (d *decoder) all() []byte { return d.take(len(d.rest)) }

func (d *decoder) err() error {
	if d.bad {
		return fmt.Errorf("%w: the fields of a %v frame do not fit its length, or a flag is unknown", ErrMalformed, d.kind)
	}
	return nil
}

// end is err, if nothing is left over.
func (d *decoder) end() error {
	d.bad = d.bad || len(d.rest) > 0
	return d.err()
}
