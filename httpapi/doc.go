// Package httpapi is the HTTP API of oncekv: what a request means, what is
// refused, and what every answer looks like. It stands on small interfaces
// (DB, Cluster, Registry, Reader) and knows nothing of raft, files or how
// caches find one another.
//
// # Use
//
//	api := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: db, Cluster: cluster, Registry: registry, Logger: logger})
//	server := &http.Server{Handler: api, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
//	err := server.Serve(listener)
//
// Set neither ReadTimeout nor WriteTimeout: they would end a long body that
// moves. This package keeps a deadline per read and per piece written.
//
// A put and what comes of it:
//
//	$ curl -i -X PUT --data-binary bar http://127.0.0.1:11000/key/foo
//	HTTP/1.1 201 Created
//	Etag: "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
//	Oncekv-Revision: 1
//
//	{"key":"foo","revision":1,"sha256":"fcde2b2e…","size":3,"created":true}
//
//	$ curl -X PUT --data-binary other http://127.0.0.1:11000/key/foo
//	{"type":"urn:oncekv:problem:conflict","title":"Key is set to other bytes","status":409,…,"revision":1,"sha256":"fcde2b2e…","size":3}
//
// # Routes
//
//	                                     database node      cache node
//	GET HEAD /key/{key} /key?key=        reads              reads
//	         /keep/{key}                 reads              reads
//	PUT      /key/{key} /key?key=        puts               forwards
//	PUT      /keep/{key}                 puts, keeps        forwards
//	POST     /key                        puts               forwards
//	GET POST /members                    lists, adds        404
//	DELETE   /members/{name}             removes            404
//	POST     /members/{name}/promote     promotes           404
//	POST     /leader                     moves              404
//	GET POST /caches                     lists, heartbeat   404
//	GET      /dbs                        lists              404
//	GET      /stats /ping /livez /readyz answers            answers
//	any      /peer/                      404                CacheConfig.PeerHandler
//
// GET routes answer HEAD too. Parameters: format=json and consistency=local on
// reads, on-conflict=keep on puts, consistency=local on GET /members,
// force=true|false on DELETE /members/{name}; no others exist.
//
// # Invariants
//
//  1. A key is the decoded path after /key/, byte for byte: decoded once,
//     never cleaned, never redirected.
//  2. What is refused is refused before DB.Put is called: a put is for ever. A
//     query, a condition or a document that could be understood in two ways is
//     refused, not guessed.
//  3. A body that broke off is never put: its length is known (411 otherwise),
//     and DB.Put sees the error of the read that missed it.
//  4. Every failure is a problem document (RFC 9457), and one table, in
//     errors.go, gives every error its status. An error of a put either is
//     definite or says that the outcome is unknown and that repeating the same
//     put is safe.
//  5. No answer passes for a value that is not the whole value: when bytes turn
//     out unreadable, or a handler panics, after the answer began, the
//     connection is broken off.
//  6. Only answers that carry a value (200, 206, 304) may be kept by HTTP
//     caches; everything else has Cache-Control: no-store.
//  7. Deadlines are per progress. A body may take for ever as long as it moves;
//     no byte for BodyIdleTimeout ends it, and an answer that is not there
//     AnswerTimeout after the body's end is a 504.
//  8. Memory is bounded: values stream, JSON bodies and values as JSON share
//     JSONBytesInFlight and are refused (429) beyond it.
//  9. Methods that change something pass http.CrossOriginProtection, on every
//     node and route.
//
// # Caveats
//
// Anything in front that cleans paths (http.ServeMux, most proxies by default)
// changes keys; clients behind one use /key?key=.
//
// A path that net/http itself cannot parse (/key/a%zz) is answered by it, in
// plain text.
//
// A client that stops reading a small answer is not timed out: the answer is
// in the socket's buffer and the handler is done. Limits on connections belong
// to the server.
//
// There is no access control. CrossOriginProtection keeps web pages from
// writing; it does not keep anybody else.
package httpapi
