// Package frame is the binary form in which many puts and gets travel in one
// request, beside NDJSON: POST /keys and POST /keys/get with the content type
// application/vnd.oncekv.batch. It knows bytes only; what they mean is for
// package httpapi on one side and package client on the other.
//
//	b = frame.AppendPut(b, &frame.Put{ID: 7, Key: "foo", Value: value})
//
//	frames := frame.NewReader(body)
//	for {
//		f, err := frames.Next()
//		if err == io.EOF { … } // orderly: between two frames
//		put, err := f.Put()
//		…
//	}
//
// # Layout
//
// All integers are big-endian and unsigned. A string has its length before it,
// in one byte (s8) or two (s16). A frame is a head of 9 bytes and a body:
//
//	length  u32   bytes that follow this field, 5 at least; 4 + length is BytesMax at most
//	kind    u8
//	id      u32   of a request: any number but 0; of an answer: its request's
//	body
//
// The sender of requests chooses ids, and must not use one again before it is
// answered. An answer comes as soon as it is known, so answers are in no order.
//
//	0x01 put       flags u8: 1 if absent, 2 keep, 4 digest, 8 meta
//	               [digest 32 bytes, with flag 4] put id s8, content type s8, key s16,
//	               [meta, with flag 8] value: the rest
//	0x02 get       flags u8: 1 local; key: the rest
//
//	0x81 set       flags u8: 1 created; revision u64, size u64, digest 32 bytes
//	0x82 value     flags u8: 1 by, 2 meta
//	               revision u64, time u64 (two's complement: nanoseconds since 1970),
//	               digest 32 bytes, cache s8, content type s8,
//	               [by s8, with flag 1] [meta, with flag 2] value: the rest
//	0x83 large     no body: the key is set, and its value is over ValueBytesMax
//	0xff problem   status u16, retry after u16 (seconds, 0: nothing said),
//	               flags u8: 1 winner, 2 limit
//	               type s8, title s8, detail s16
//	               [revision u64, size u64, digest 32 bytes, with flag 1] [limit u64, with flag 2]
//
// A meta is its length in bytes (u16) and that many bytes: name s8 and value s16 after
// one another, in the order of the names, each once and none empty.
//
// Cache nodes use the same layout among themselves, with kinds of their own and a
// length that counts the body alone: see AppendPeer.
//
// A problem with the id 0 is about the stream and its last frame. Flags that are
// not listed are 0.
//
// # Invariants
//
//  1. A frame is BytesMax at most, and so is what a Reader holds.
//  2. Whatever bytes come, decoding ends with a frame or an error, and every
//     frame that decodes is encoded to the same bytes again: there is one form.
package frame
