// Package httpapi is the HTTP API of oncekv: what a request means, what is refused, and
// what every answer looks like. It stands on small interfaces (interfaces.go) and knows
// nothing of raft, files, or how caches find one another. docs/http.md describes the
// API for its users, openapi.yaml for machines.
//
//	handler := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: db, Cluster: cluster, Registry: registry, Logger: logger})
//	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
//	err := server.Serve(listener)
//
// Set neither ReadTimeout nor WriteTimeout: they would end a long body that moves. The
// package sets a deadline for each read and each piece written.
//
// # Rooms
//
// A file uses only files further down:
//
//	admin.go cache.go database.go           routes of the three kinds of node
//	cacheput.go forward.go                  a PUT at a cache node, and what is forwarded as it came
//	manyget.go manyput.go                   streams of gets and of puts; gets in lines
//	ndjsonput.go frameput.go frameget.go    puts in lines, puts and gets in frames
//	linereader.go frames.go                 what requests in lines, and in frames, share
//	session.go                              the life of a stream: places, order, its end
//	spool.go duplex.go                      answers waiting, both ways at once
//	changestream.go changes.go              GET /changes
//	health.go cluster.go                    /stats, probes, members, lists of nodes
//	plainput.go putjson.go put.go           puts: a line the fast way, a document, a body
//	putanswer.go                            what a put is answered
//	list.go get.go                          GET /keys, one value
//	content.go ranges.go valueheaders.go    a value as http.ServeContent wants it
//	front.go host.go routes.go foreign.go   from the connection to a route
//	jsonbody.go strictjson.go               JSON in requests
//	putheaders.go keys.go query.go          headers, paths and parameters
//	body.go writer.go                       bodies and answers at the pace of a client
//	answer.go config.go interfaces.go       the answer under way, configurations, what handlers stand on
//	room.go                                 memory, and what ends a wait
//	errors.go problem.go document.go        errors, and JSON in answers
//
// # Invariants
//
//  1. A key is the decoded path after /key/, byte for byte: decoded once, never cleaned,
//     never redirected.
//  2. What is refused is refused before DB.Put is called: a put cannot be undone. A
//     query, a condition or a document that has two readings is refused, not guessed.
//  3. A body that broke off is never put: its length is known (411 otherwise), and
//     DB.Put sees the error of the read that missed it.
//  4. Every failure is a problem document, and one table gives every error its status.
//     An error of a put either is definite or says that the outcome is unknown and that
//     repeating the same put is safe.
//  5. No answer passes for a value that is not the whole value: when bytes turn out
//     unreadable, or a handler panics, after the answer began, the connection is closed.
//  6. Only answers that carry a value (200, 206, 304) may be kept by HTTP caches;
//     everything else has Cache-Control: no-store. One function of the key says for how
//     long: forever, today.
//  7. Deadlines are per progress. A body may take any time as long as it moves; no byte
//     for BodyIdleTimeout ends it, and an answer that is not there AnswerTimeout after
//     the body's end is a 504. Where both move at once, the progress of either counts.
//  8. Memory is bounded. Values stream. JSON bodies, lists and values as JSON have shares
//     of JSONBytesInFlight (room.go), values with slow readers share ValueBytesInFlight,
//     requests for keys RequestsInFlight, lines of POST /keys BatchBytesInFlight. What is
//     beyond waits for a second and gets 429. Memory is taken as bytes arrive, not as
//     they are announced. Heartbeats, members and lists of nodes have memory that no
//     other client can take. Nothing is kept for a client that does not read.
//  9. A client may be slow as long as nobody waits for what it holds. When somebody does,
//     clients give way by the rules of package budget: streams that rest, and bodies and
//     readers that are too slow.
//  10. Methods that change something pass http.CrossOriginProtection, on every node and
//     route.
//
// # Caveats
//
// There is no access control. CrossOriginProtection keeps web pages from writing; it does
// not keep anybody else.
package httpapi
