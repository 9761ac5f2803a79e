package kvstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

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

// PutMany is Put for several keys, and much cheaper than as many Puts: keys are
// looked up together, and what is new is proposed together, to be committed in one
// entry of the log and answered at one moment. It calls each once for every put,
// in any order, on this goroutine, and returns after that. Each put is decided on
// its own, with the results and errors of Put; of two puts of the same key either
// may win.
//
// Memory: the values and their metadata once more. More than 1 MiB of them is put in
// several steps, one after the other.
func (db *DB) PutMany(ctx context.Context, puts []SmallPut, each func(i int, r PutResult, err error)) {
	m := manyPuts{db: db, puts: puts, each: each, rest: make([]int, 0, len(puts))}
	valid := DefaultContentType // most have the same as the one before
	for i := range puts {
		if err := db.prepareSmall(&puts[i], valid); err != nil {
			each(i, PutResult{}, err)
			continue
		}
		valid = puts[i].ContentType
		m.rest = append(m.rest, i)
	}
	m.answerSet()
	if len(m.rest) == 0 {
		return
	}
	if err := db.cfg.Reserve(); err != nil {
		m.fail(err)
		return
	}
	for len(m.rest) > 0 {
		n, size := m.step()
		m.propose(ctx, m.rest[:n], size)
		m.rest = m.rest[n:]
	}
}

// prepareSmall checks a put, and fills in what may be left out. The content type
// valid is known to be that.
func (db *DB) prepareSmall(p *SmallPut, valid string) error {
	r := PutRequest{Key: p.Key, PutID: p.PutID, Size: int64(len(p.Value)), By: p.By}
	if p.ContentType != valid {
		r.ContentType = p.ContentType
	}
	if err := db.prepare(&r); err != nil {
		return err
	}
	if r.Size > ChunkBytes {
		return &TooLargeError{LimitBytes: ChunkBytes}
	}
	if p.ContentType != valid {
		p.ContentType = r.ContentType
	}
	p.PutID = r.PutID
	return nil
}

// manyPuts is one call of PutMany.
type manyPuts struct {
	db   *DB
	puts []SmallPut
	each func(i int, r PutResult, err error)
	rest []int // places of the puts without an answer
}

func (m *manyPuts) fail(err error) {
	for _, i := range m.rest {
		m.each(i, PutResult{}, err)
	}
	m.rest = nil
}

// answerSet answers the puts whose keys are set.
func (m *manyPuts) answerSet() {
	keys := make([]Key, len(m.rest))
	for n, i := range m.rest {
		keys[n] = m.puts[i].Key
	}
	places := m.rest
	m.rest = make([]int, 0, len(places))
	type winner struct {
		place int
		meta  Meta
		err   error
	}
	var winners []winner // to be answered outside of the transaction
	m.db.store.getMany(keys, false, func(n int, v *Value, err error) {
		switch {
		case err == ErrNotFound:
			m.rest = append(m.rest, places[n])
		case err != nil:
			winners = append(winners, winner{place: places[n], err: err})
		default:
			winners = append(winners, winner{place: places[n], meta: v.Meta})
		}
	})
	for _, w := range winners {
		r, err := PutResult{}, w.err
		if err == nil {
			r, err = m.puts[w.place].against(&w.meta)
		}
		m.each(w.place, r, err)
	}
}

// against says what a put is when winner holds its key.
func (p *SmallPut) against(winner *Meta) (PutResult, error) {
	sum := Digest(sha256.Sum256(p.Value))
	if err := p.checkDigest(&sum); err != nil {
		return PutResult{}, err
	}
	return PutResult{Outcome: outcomeAgainst(winner, p.PutID, &sum), Meta: *winner}, nil
}

func (p *SmallPut) checkDigest(sum *Digest) error {
	return checkDigest(&PutRequest{SHA256: p.SHA256}, *sum)
}

// step is how many of the rest are put together, and the bytes of their values and
// metadata.
func (m *manyPuts) step() (n int, size int64) {
	for n < len(m.rest) {
		p := &m.puts[m.rest[n]]
		more := int64(len(p.Value) + p.UserMeta.Bytes())
		if n > 0 && size+more > ChunkBytes {
			break
		}
		size += more
		n++
	}
	return n, size
}

// propose puts together what is at these places.
func (m *manyPuts) propose(ctx context.Context, places []int, size int64) {
	if err := m.db.intake.many.Acquire(ctx, size, m.db.cfg.InFlightWait); err != nil {
		err = overloaded(err)
		for _, i := range places {
			m.each(i, PutResult{}, err)
		}
		return
	}
	defer m.db.intake.many.Give(size)
	now := m.db.cfg.Now()
	commands := make([][]byte, 0, len(places))
	proposed := make([]int, 0, len(places))
	sums := make([]Digest, 0, len(places))
	var list []bodies.Body
	for _, i := range places {
		p := &m.puts[i]
		sum := Digest(sha256.Sum256(p.Value))
		if err := p.checkDigest(&sum); err != nil {
			m.each(i, PutResult{}, err)
			continue
		}
		if len(p.Value) >= BodyBytesMin {
			list = append(list, bodies.Body{Digest: bodies.Digest(sum), Data: bytes.Clone(p.Value)})
		}
		commands = append(commands, p.command(now, sum))
		proposed = append(proposed, i)
		sums = append(sums, sum)
	}
	if len(commands) == 0 {
		return
	}
	if len(list) > 0 {
		drop, err := m.db.distribute(ctx, list)
		if err != nil {
			for _, i := range proposed {
				m.each(i, PutResult{}, err)
			}
			return
		}
		defer drop()
	}
	m.db.log.ProposeMany(ctx, commands, func(n int, result any, err error) {
		i := proposed[n]
		if record, ok := result.(*pendingRecord); ok && err == nil { // set by this very command
			meta := m.puts[i].meta(now, sums[n])
			meta.Revision = record.rev
			m.each(i, PutResult{Outcome: Created, Meta: meta}, nil)
			return
		}
		r, err := putResult(result, err)
		m.each(i, r, err)
	})
}

// command encodes a put.
func (p *SmallPut) command(now time.Time, sum Digest) []byte {
	meta := p.meta(now, sum)
	if meta.Size >= BodyBytesMin {
		return referCommand(&meta)
	}
	cmd, _ := putCommandHeader(&meta, meta.Size)
	return append(cmd, p.Value...)
}

func (p *SmallPut) meta(now time.Time, sum Digest) Meta {
	return Meta{Key: p.Key, Size: int64(len(p.Value)), SHA256: sum, ContentType: p.ContentType, Time: now.Round(0).UTC(), PutID: p.PutID, By: p.By, UserMeta: p.UserMeta}
}
