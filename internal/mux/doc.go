// Package mux carries many calls at a time over one connection, as frames
// (package frame): the caller's side of the streams between clients and nodes,
// between cache nodes and database nodes, and among cache nodes.
//
// From top to bottom:
//
//	Lane     a request in frames to one URL of a node, opened when there are calls
//	Caller   the calls of one stream: id → call
//	Queue    frames on their way out, from many goroutines
//
// A call adds its frame to the queue under an id of its own. Whatever has gathered
// in the queue leaves in one piece: nobody waits for others to come, and the busier
// the connection, the more frames a system call carries. Answers come in any order,
// and each is handed to the call with its id.
//
//	lane := lanes.Lane(url + "/keys")
//	if s := lane.Stream(); s != nil {
//		sent, err := s.Do(ctx, call, patience)
//	}
//
// # Invariants
//
//  1. A call ends once: with its answer, with the error that ended the stream, or
//     because its caller has left. An answer that comes after that is dropped.
//  2. A call that Do reports as not sent has not left this process in any part.
//  3. A Queue holds its limit, and the frames of one call more for each goroutine
//     that adds.
package mux
