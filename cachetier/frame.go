package cachetier

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/kvstore"
)

// What cache nodes say to each other over GET /peer/stream, once it has become
// a stream. Numbers are big-endian.
//
//	0  length of the payload, 4
//	4  kind, 1 byte
//	5  id, 4: the asker's; an answer carries the id of its question, 0 for none
//	9  payload
//
// Answers come in any order. A kind that is not known ends the stream: what may
// be said is agreed on by its name, streamProtocol.
const (
	frameGet  = 1 // key: asks for its record
	framePing = 2 // nothing: asks for framePong, at once

	frameRecord  = 16 // a record
	frameAbsent  = 17 // nothing: the key is not set
	frameBusy    = 18 // a sentence: the record could not be loaded
	frameLarge   = 19 // nothing: the record is too long for a frame, ask GET /peer/record
	framePong    = 20 // nothing
	frameLeaving = 21 // nothing: ask no more; what was asked is answered
)

const (
	frameHeader      = 9
	frameRecordBytes = smallBytes // longer records would make all others wait
	frameReasonBytes = 1024
)

type frame struct {
	kind    byte
	id      uint32
	payload []byte
}

// payloadLimits returns how long the payload of a kind may be.
func payloadLimits(kind byte) (least, most int, known bool) {
	switch kind {
	case frameGet:
		return 1, kvstore.MaxKeyBytes, true
	case frameRecord:
		return recordFixed + recordChecksum, frameRecordBytes, true
	case frameBusy:
		return 0, frameReasonBytes, true
	case framePing, frameAbsent, frameLarge, framePong, frameLeaving:
		return 0, 0, true
	}
	return 0, 0, false
}

func appendFrame(b []byte, kind byte, id uint32, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, payload...)
}

// readFrame reads the next frame. Its payload is the caller's. An error other
// than io.EOF means that the stream is of no use any more.
func readFrame(r *bufio.Reader) (frame, error) {
	header, err := r.Peek(frameHeader)
	if err != nil {
		if err == io.EOF && len(header) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	size := binary.BigEndian.Uint32(header)
	f := frame{kind: header[4], id: binary.BigEndian.Uint32(header[5:])}
	least, most, known := payloadLimits(f.kind)
	if !known || size < uint32(least) || size > uint32(most) {
		return frame{}, fmt.Errorf("frame of kind %d with %d bytes: the other side does not keep to the protocol", f.kind, size)
	}
	_, _ = r.Discard(frameHeader) // was peeked
	if size == 0 {
		return f, nil
	}
	f.payload = make([]byte, size)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, fmt.Errorf("frame of %d bytes broke off: %w", size, err)
	}
	return f, nil
}

// frameBuffered reports whether readFrame will return without waiting.
func frameBuffered(r *bufio.Reader) bool {
	if r.Buffered() < frameHeader {
		return false
	}
	header, _ := r.Peek(frameHeader)
	return uint64(r.Buffered()) >= frameHeader+uint64(binary.BigEndian.Uint32(header))
}
