package walscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Check reads the WAL in dir, without changing anything, and reports what it holds. It
// returns a *DamageError when flushed records are damaged, an error wrapping ErrNoSegments
// when there is no log, and any other error when a file could not be opened. It needs
// memory for one record, and for the rest of a segment if something in it does not read.
// dir must not be in use.
func Check(dir string) (Report, error) {
	segs, err := segments(dir)
	if err != nil {
		return Report{}, err
	}
	c := &checker{log: history{known: max(segs[0].index, 1) - 1}} // what its name says came before it
	c.report.FirstIndex = segs[0].index
	c.report.Segments = len(segs)
	for i, s := range segs {
		c.last = i == len(segs)-1
		if err := c.segment(s); err != nil {
			return Report{}, err
		}
	}
	c.log.fill(&c.report)
	return c.report, nil
}

// checker is the state of one Check.
type checker struct {
	report Report
	crc    uint32 // running checksum after the last good record
	log    history
	last   bool // the segment being read is the last

	// End of the segment before, to blame it when the next does not chain.
	prev    segment
	prevEnd int64
}

// segment reads one segment to its end.
func (c *checker) segment(s segment) error {
	r, err := openReader(s.path)
	if err != nil {
		return fmt.Errorf("open a WAL segment: %w", err)
	}
	defer r.close()
	for n := 0; ; n++ {
		off := r.off
		rec, err := r.next(c.crc)
		if err == nil {
			err = c.record(s, n, off, rec)
		}
		var bad badFrameError
		switch {
		case err == nil:
			continue
		case errors.Is(err, io.EOF) && n >= 2:
			c.prev, c.prevEnd = s, off
			return nil
		case errors.Is(err, io.EOF):
			return &DamageError{File: s.path, Offset: off, Detail: "the segment has no header records"}
		case errors.As(err, &bad):
			return c.bad(s, r, n, string(bad))
		case errors.As(err, new(*DamageError)):
			return err
		}
		return &DamageError{File: s.path, Offset: off, Detail: fmt.Sprintf("it cannot be read: %v", err)}
	}
}

// record takes the n-th good frame of segment s into account.
func (c *checker) record(s segment, n int, off int64, rec record) error {
	if n == 0 || rec.typ == crcType {
		return c.start(s, n, off, rec)
	}
	c.crc = rec.crc
	if (n == 1) != (rec.typ == metadataType) {
		return &DamageError{File: s.path, Offset: off, Detail: "a metadata record must be the second of a segment, and no other"}
	}
	if rec.typ == metadataType {
		if c.report.Metadata == nil {
			c.report.Metadata = append([]byte{}, rec.data...)
		}
		if !bytes.Equal(c.report.Metadata, rec.data) {
			return &DamageError{File: s.path, Offset: off, Detail: "the metadata differs from that of the first segment"}
		}
		return nil
	}
	if err := c.log.record(rec); err != nil {
		return &DamageError{File: s.path, Offset: off, Detail: err.Error()}
	}
	return nil
}

// start verifies the crc record that begins a segment, and the segment's name.
// The first segment there is may begin with any sum, as those before it were
// purged, and its name is all that is known about them.
func (c *checker) start(s segment, n int, off int64, rec record) error {
	if n != 0 || rec.typ != crcType || rec.data != nil {
		return &DamageError{File: s.path, Offset: off, Detail: "a crc record must be the first of a segment, and no other"}
	}
	first := c.prev.path == ""
	if rec.crc != c.crc && !(first && s.seq > 0) {
		return c.unchained(s)
	}
	c.crc = rec.crc
	if first {
		return nil
	}
	if err := c.log.segment(s.index); err != nil {
		return &DamageError{File: s.path, Detail: err.Error()}
	}
	return nil
}

// unchained names the file to blame when segment s does not continue the sum of
// the segment before: s if its own second record does, else the one before,
// whose end is then missing.
func (c *checker) unchained(s segment) error {
	r, err := openReader(s.path)
	if err != nil {
		return fmt.Errorf("open a WAL segment: %w", err)
	}
	defer r.close()
	b, err := r.tail()
	if err == nil && c.prev.path != "" {
		_, n, _ := frameAt(b)
		if second, _, ok := frameAt(b[n:]); !ok || !second.chains(c.crc) {
			return &DamageError{File: c.prev.path, Offset: c.prevEnd, Detail: "records are missing at the end of the segment; the next one does not continue its checksum"}
		}
	}
	return &DamageError{File: s.path, Detail: "the crc record does not continue the checksum of the log"}
}

// bad decides about the frame at the reader's position, which does not read:
// a torn tail goes into the report, all else is damage.
func (c *checker) bad(s segment, r *reader, n int, why string) error {
	damage := &DamageError{File: s.path, Offset: r.off, Detail: why}
	if !c.last {
		damage.Detail += ", and later segments follow"
		return damage
	}
	if n < 2 {
		damage.Detail += " in the header of the segment, which is flushed before it is used"
		return damage
	}
	tail, err := r.tail()
	if err != nil {
		damage.Detail += fmt.Sprintf(", and what follows cannot be read: %v", err)
		return damage
	}
	t := suspect{b: tail, off: r.off, crc: c.crc, log: c.log}
	if reason := t.damaged(); reason != "" {
		damage.Detail += ", " + reason
		return damage
	}
	c.report.Torn, c.report.TornFile, c.report.TornOffset = true, s.path, r.off
	return nil
}
