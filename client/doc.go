// Package client is the Go client of oncekv. What it sends and receives is defined in
// package api, which the servers use too; the types and errors that calls take and
// return have the same names here. Besides api it imports only the form of frames
// (internal/frame) and their streams (internal/mux).
//
// Make one client, keep it, use it from any goroutine.
//
//	c, err := client.New(client.Config{Endpoints: []string{
//		"http://127.0.0.1:11000", "http://127.0.0.1:11001", "http://127.0.0.1:11002",
//	}})
//	…
//	answer, err := c.PutBytes(ctx, "app/v1/main.js", script, client.PutOptions{ContentType: "text/javascript"})
//	var lost *client.ConflictError
//	switch {
//	case errors.As(err, &lost):                      // somebody else was first: lost.Revision, lost.SHA256
//	case errors.Is(err, client.ErrOutcomeUnknown):   // put the same again, with the same put id
//	case err != nil:                                 // it was not set, and will not be by this put
//	case answer.Created:                             // this put set it
//	}
//
//	obj, err := c.Get(ctx, "app/v1/main.js", client.GetOptions{})
//	if errors.Is(err, client.ErrNotFound) { … }
//	defer obj.Body.Close()
//	_, err = io.Copy(dst, obj.Body)                  // nil only if the digest is right
//
// Keys, Changes and PutAll are iterators that live as long as their loop. They
// page, resume and send again by themselves; an error is their last element.
//
// Puts of values up to 32 KiB and Gets that are under way at the same time travel
// together, as frames on one long request; Config.SingleRequests ends that.
//
// # Rooms
//
// A file uses only files further down, but for the Client, which coalesce.go and
// ranking.go share with client.go:
//
//	batch.go changes.go keys.go     iterators
//	put.go get.go cluster.go        single calls
//	call.go coalesce.go             tries, endpoints and time limits; calls in frames
//	client.go ranking.go            the Client, and where its requests begin
//	silence.go problem.go           what a caller is told meanwhile, and at the end
//	history.go lines.go body.go     histories, streams, and bodies that may be sent again
//	target.go                       what is refused before it is sent
//	errors.go wire.go               errors, and the names of package api
//
// # Invariants
//
//  1. Repeating is safe: all tries of one Put carry the same Oncekv-Put-Id, so
//     a try whose answer was lost is told from a rival. Exactly one id ever
//     wins a key.
//  2. An error is definite or says that it is not: ErrOutcomeUnknown is
//     returned as soon as one try of a change may have been carried out and no
//     later one had a definite answer. Everything else means: not done.
//  3. errors.Is gives the same kind here as on the server that refused.
//  4. A key arrives byte for byte. Where a path would be cleaned on the way,
//     the key goes in the query instead (api.KeyTarget).
//  5. A value whose digest is wrong is never seen complete: reading ends with
//     ErrDigestMismatch in place of the last bytes and io.EOF.
//  6. Time limits are per progress: a slow transfer is not cut off while bytes
//     move.
//  7. Changes yields every put of one history once and in order, whichever
//     endpoints it took; PutAll yields one result for each item, in the items' order.
//  8. No goroutine outlives a call, but for those of net/http's connections and
//     one for each open stream of calls that travel together. Close ends and
//     waits for these; without it they end by themselves when no more calls come.
//
// # Caveats
//
//   - A value read by Get that breaks off half-way is an error of Object.Body;
//     it is not resumed at another endpoint.
//   - Cache nodes as endpoints serve keys and changes, not
//     members or leadership.
//   - A body that cannot seek has to be held somewhere first: a put must be
//     able to send it again.
//   - A redirect is an error. The API has none, and following one could send a
//     put to a stranger.
package client
