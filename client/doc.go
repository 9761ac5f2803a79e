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
// page, resume and send again by themselves; an error is their last element:
//
//	for change, err := range c.Changes(ctx, client.ChangesOptions{Since: at.Revision, History: at.History, Follow: true}) {
//		var changed *client.HistoryChangedError
//		switch {
//		case errors.As(err, &changed):
//			drop(changed.Common())       // what was read behind this revision need not be there any more
//			at = client.Position{Revision: changed.Common(), History: changed.History}
//		case err != nil:
//			return err
//		default:
//			at = change.Position()       // at.String() may be kept, for ParsePosition
//		}
//	}
//
// # Histories
//
// A revision alone does not say which put it is: a cluster that was restored, or
// forced out of another one, begins a history of its own, in which the same revision
// may be another put. So a Position has the history too, nodes name theirs on their
// answers (api.HeaderHistory) and in the heartbeats of streams, and iterators of changes
// and keys keep to the one that they began in: they send it along, compare it with what
// comes back, and end with a *HistoryChangedError at an endpoint that has another one.
// A stream of changes that waits is opened again when some other answer of the client,
// that of a put perhaps, names another history: the node it is from may have been left
// behind. To the put itself that is no error, and PutAnswer.History says it.
//
// # Calls that travel together
//
// Puts (of values up to 32 KiB) and Gets that are under way at the same time go
// as frames on one long request to the endpoint, POST /keys and POST /keys/get,
// which is many times faster than a request each. A call that is alone is a
// request of its own, and so is every call while a stream is being opened, or at
// an endpoint that does not know frames, which is asked again after a minute: no
// call ever waits for others to come. Nothing else changes: answers, errors,
// tries, deadlines and endpoints are those of single requests. A stream on which
// no call came for 10 s ends. The items of PutAll travel on the same streams; they
// wait for one that is being opened.
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
// # What it does about failures
//
// Each request begins at the endpoint that worked last, or at one that has
// become clearly nearer: at most every 5 s a request takes along a GET /ping to
// every endpoint, and the preference moves when another one's smoothed round
// trip is shorter by a quarter and by 200 µs. An endpoint that failed is not
// moved back to for 10 s. A client that lives shorter, or has one endpoint,
// sends no pings, nor does an idle one.
//
// Puts begin at the leader, if one of the endpoints says that it leads
// (api.HeaderRole on its answer to a ping, or to a stream of puts): another node would
// forward them. A client whose stream of puts is at another endpoint pings all of
// them with its next put, however young it is.
//
// A try that fails to
// connect, breaks off, stands still (Config.IdleTimeout), or is refused with
// 429, 500, 502, 503 or 504 is followed by one at the next endpoint, and after
// all of them by a pause: jittered, doubling from 50 ms to 2 s, and no shorter
// than a Retry-After (of 5 s at most). It goes on until the caller's context
// ends, or would end within the next pause; without a deadline,
// Config.RetryTimeout. Every other answer is final. With Config.FailRefused a
// request ends at once if nothing listens at any endpoint.
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
