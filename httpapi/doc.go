// Package httpapi is the HTTP API of oncekv: what a request means, what is
// refused, and what every answer looks like. It stands on small interfaces
// (DB, Cluster, Registry, Reader) and knows nothing of raft, files or how
// caches find one another.
//
// # Use
//
//	handler := httpapi.NewDatabase(httpapi.DatabaseConfig{DB: db, Cluster: cluster, Registry: registry, Logger: logger})
//	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
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
//	GET      /keys /changes              lists              forwards
//	POST     /keys                       puts many          forwards, both ways
//	POST     /keys/get                   reads many         reads many
//	GET POST /members                    lists, adds        404
//	DELETE   /members/{name}             removes            404
//	POST     /members/{name}/promote     promotes           404
//	POST     /leader                     moves              404
//	GET POST /caches                     lists, heartbeat   404
//	GET      /dbs                        lists              404
//	GET      /stats /ping /livez /readyz answers            answers
//	         /metrics                    Prometheus         Prometheus
//	         /openapi.yaml               this API, for machines
//	any      /peer/                      404                CacheConfig.PeerHandler
//
// An admin has its page at /, with /assets/ and /favicon.svg; GET /events, /owner,
// /dbs and /caches; /stats and those that follow it above; and below /api the
// routes from /key to /leader but /keep, all of them forwarded.
//
// GET routes answer HEAD too. Parameters: format=json and consistency=local on
// reads, on-conflict=keep on puts, consistency=local on GET /members,
// force=true|false on DELETE /members/{name}, and those of lists; no others
// exist.
//
// # Who asks
//
// Every handler answers 421 unless Host is a name of the node (Hosts in the
// configuration), but for /ping, /livez and /readyz, and 403 to what changes
// something and comes from a web page of another origin. Guard does both for other
// handlers. A node that forwards has judged both, and asks under the target's name.
//
// # The end of a request
//
// What is left of a body is never another request. net/http reads on to the body's
// end, or closes the connection; of an answer that may begin before that (full
// duplex) it does neither, so the outermost handler makes every such answer its
// connection's last, whatever became of the headers meanwhile. So is one to HTTP/1.0,
// where net/http passes over a Transfer-Encoding, and one to a chunked body, where it
// passes over a Content-Length: somebody in front may have gone by that.
//
// # Lists
//
// GET /keys takes prefix, after, limit (1 to 10,000, else 1,000), history and
// consistency. A page ends by its limit, at about 1 MiB, or earlier; only one
// without "next" is the last. "next" is a token that after takes: base64url of a
// version byte, the id of the history and the page's last key, so that pages stay
// right whatever is put between them, at any node. A token of version 1 has no
// history.
//
// GET /changes takes since (a revision, else 0), history, prefix, limit, values,
// follow and consistency. Its lines are client.Change, in order of revision; a range
// has the same bytes on every node. A request that does not follow ends at the
// revision that was newest when it came. One that follows asks for nobody's
// confirmation, unless it asks for what this node does not have. With values, those of
// up to 1 MiB travel along, and others are referred to by "location".
//
// Only streams that follow have lines of type client.ChangesMark between:
// heartbeats, after Heartbeat without another line, with the last revision that
// was scanned, be it of the prefix or not, and the history that it is of. The last
// line of a stream that its node ends is a mark too: EndClosing, EndSlow for a
// follower that took over half of BodyIdleTimeout over one piece of 64 KiB,
// EndOverloaded, EndHistory, EndFailed.
// Who takes nothing for all of BodyIdleTimeout is broken off, and so is, behind
// that last line, a list that does not follow: half of it must not pass for the
// whole.
//
// A request that accepts text/event-stream follows, and gets each line as the
// data of an event whose id is the revision and, behind a dot, the history; marks are
// named by their event. Last-Event-ID, which a browser sends when it connects again,
// beats since and history; a revision alone is taken too, and beats since.
//
// # Histories
//
// Answers that have revisions name the history that they are of in Oncekv-History: those
// of puts, /keys, /changes, /stats, /ping and /members, and those about the value of a
// key to requests that have that header, as cache nodes' have. It is the history that
// the node holds when the answer begins.
//
// Who names a history that the node does not hold (history, a token, Last-Event-ID), or
// a revision beyond the newest, is answered 409 (kvstore.HistoryChangedError), after
// ReadIndex has shown that this node is not merely behind. Without that confirmation
// another history is 503, and a follower waits for a revision that is not there yet: the
// heartbeats that it gets meanwhile tell where this node is, and have no event id; every
// one of them is another try to confirm. With consistency=local a revision is waited for
// without asking; a history that the node does not know is confirmed all the same. No
// stream goes on in another history than it began in.
//
// # Metadata
//
// A put takes names and values as headers Oncekv-Meta-NAME, or as "meta" of a document,
// a line or a frame; they are checked by kvstore.MakeUserMeta, and are in every answer
// about the record in the form that the answer has. Documents and streams of many puts
// refuse the headers.
//
// # Many puts
//
// POST /keys takes a stream of lines (NDJSON), each as the body of POST /key,
// and answers with a stream of lines, a result for each line that is not blank,
// in their order:
//
//	$ printf '%s\n' '{"key":"a","value":"1"}' '{"key":"a","value":"2"}' '{}' | curl -T- -X POST http://127.0.0.1:11000/keys
//	{"key":"a","status":"created","revision":1,"sha256":"6b86b273…","size":1}
//	{"key":"a","status":"conflict","revision":1,"sha256":"6b86b273…","size":1,"detail":"the key is set to other bytes …"}
//	{"status":"invalid","detail":"line 3: the JSON document has no \"key\" …"}
//
// Every line is decided on its own: created, unchanged, conflict, invalid (never
// to be put like that), failed (not proposed: no leader for AnswerTimeout, or a
// full disk) or unknown (sending the line again is safe and tells). Lines with
// different keys are decided in any order, those with the same key in theirs.
// Overload is waited out. The answer begins before the first line is needed and
// results come as soon as those before them: a client may wait for each, read
// while it sends, or send everything first. What is not read yet waits in
// memory, then in a file of SpillBytes.
//
// A stream that cannot go on ends with a line of status "error", whose "line" is
// the first of the request without a result: for a line over 8 MiB, a client
// that reads nothing while the file is full, or sends nothing for
// BodyIdleTimeout, a node that stops. Lines before it that were read have their
// results; of that line and the following nothing was proposed. An answer that
// breaks off without its end says nothing about the lines without a result.
//
// # Many gets, and frames
//
// POST /keys/get takes a stream of lines that name a key each, and answers with
// a line for each that is not blank, in their order: client.GetResult. Lines
// that arrive together are looked up together, and all their absences are
// confirmed by one round of ReadIndex. Values of over 64 KiB are referred to by
// "location". A client that does not read is waited for, so it must not send
// everything first.
//
// Both routes also speak frames (package frame), when the request's content type
// is api.ContentTypeFrames: for programs that have many puts and gets under way
// on one connection, and want each answer as soon as it is known. A frame is a
// put with the conditions of PUT /key/{key}, or a get; its answer, which carries
// its id, says what that of a single request says, as fields or as a problem.
// Frames of one stream are decided in any order, those with the same key too: who
// needs an order waits for the answer. A value never waits for somebody's
// absence to be confirmed. A stream that cannot go on ends with a problem whose
// id is 0; all that was taken is answered before it, and of the rest nothing was
// done.
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
//     caches; everything else has Cache-Control: no-store. For how long, one function
//     of the key says: for ever, today.
//  7. Deadlines are per progress. A body may take for ever as long as it moves;
//     no byte for BodyIdleTimeout ends it, and an answer that is not there
//     AnswerTimeout after the body's end is a 504. Where both move at once,
//     either's progress counts for both.
//  8. Memory is bounded: values stream; JSON bodies, lists and values as JSON
//     have shares of JSONBytesInFlight (rooms), values whose readers are slow share
//     ValueBytesInFlight, and requests for keys RequestsInFlight; what is
//     beyond waits for a second and is refused (429). Memory is taken as bytes
//     arrive, not as they are announced. What tells how a node is, heartbeats,
//     members and lists of nodes have memory that no other client can take. What a
//     client has not taken of a stream of changes is not kept for it: it is read
//     from history when it does. Of POST /keys in lines, BatchStreams work at a
//     time, and batchRestingStreams more may be silent; the lines of all of them
//     share BatchBytesInFlight, two of over 64 KiB are read at a time, 8,192 of them
//     are being decided, and each request has up to 8,192 results and 1 MiB of
//     buffers, 20 MiB at the very most, however many its lines. Of streams in frames
//     there are FramedStreams for puts, which share the budgets of lines, and as many
//     for gets; each holds half a MiB at most, and takes no more while a client does
//     not read. A POST /keys/get in lines takes 2 MiB while it looks 16 of them up.
//     What was found keeps what it takes as an answer until the client has that.
//  9. A client may be slow as long as nobody waits for what it holds. When somebody
//     does, clients give way by the rules of package budget: streams that rest, and
//     bodies and readers that are too slow.
//  10. Methods that change something pass http.CrossOriginProtection, on every
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
// The connection of POST /keys is closed behind its answer: a stream that ends
// before its input leaves bytes that would pass for the next request.
//
// A stream of changes through a cache node that stops is broken off without a
// last line; the revision of the last one that came says where to go on.
//
// There is no access control. CrossOriginProtection keeps web pages from
// writing; it does not keep anybody else.
package httpapi
