// Package api is what travels over the wire: the JSON types, headers, media types,
// problem types and kinds of error of oncekv's HTTP API, and the way a key is written
// in a path and in JSON. Servers, the Go client and the commands compile against it, so
// a name on one side cannot differ from the other. docs/http.md describes the routes.
//
// The package imports nothing of this module. It has no state, and its functions are
// safe for concurrent use.
//
// Rooms, none of which uses another one above it:
//
//	headerrecord.go  a record in the headers of an answer
//	problem.go       error documents and what kind of failure they are
//	nodes.go         members, database and cache nodes, their metrics
//	history.go       changes, positions, histories
//	record.go        keys and values, one or many in a request
//	key.go           keys in paths and in JSON
//	check.go         what is refused on either side, in the same words
//	kind.go          kinds of failure
//	headers.go       headers and media types
//
// # Invariants
//
//  1. A key arrives byte for byte: KeyTarget and JSONKey carry every key, and nothing
//     on the way can change it.
//  2. A kind of error is the same on both sides: Problem.Kind of the document that a
//     server makes for an error is the kind of that error.
//  3. Readers pass over fields and types that they do not know: the other side may be
//     a later version.
package api
