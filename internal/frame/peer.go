package frame

import (
	"encoding/binary"
	"io"
)

// What cache nodes say to each other over GET /peer/stream, once it has become a
// stream: the layout is that of all frames, but length is that of the body alone. An
// answer has the id of its question; what answers none has the id 0.
//
// A kind that is not known ends the stream: the protocol's name, in the request's
// Upgrade, says which there are.
const (
	PeerGet  Kind = 1 // key: asks for its record
	PeerPing Kind = 2 // nothing: asks for PeerPong, at once

	PeerRecord  Kind = 16 // a record
	PeerAbsent  Kind = 17 // nothing: the key is not set
	PeerBusy    Kind = 18 // a sentence: the record could not be loaded
	PeerLarge   Kind = 19 // nothing: the record is too long for a frame, ask GET /peer/record
	PeerPong    Kind = 20 // nothing
	PeerLeaving Kind = 21 // nothing: ask no more; what was asked is answered
)

// AppendPeer appends a frame between cache nodes, of BytesMax at most.
func AppendPeer[T ~[]byte | ~string](b []byte, kind Kind, id uint32, body T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint32(b, id)
	return append(b, body...)
}

// NewPeerReader returns a Reader of frames between cache nodes.
func NewPeerReader(src io.Reader) *Reader { return &Reader{src: src, uncounted: headBytes} }
