// Package forward passes requests on to a live database node: cache nodes and
// the admin do, so that a client can be given one URL.
//
//	h := forward.New(forward.Config{Databases: nearestFirst, Logger: logger})
//	h.ServeHTTP(w, r)
//
// Both bodies stream; path and query stay as they came. Host is that of the node
// a request goes to, and Origin and Sec-Fetch-* are left out: the caller has
// judged them. Which requests may be forwarded is for the caller to decide.
//
// # Invariants
//
//  1. A failure keeps its meaning. As long as nothing of the body has left, the
//     next database node is tried, and when none takes the request the answer is
//     503, definitely not proposed; after that, no answer is 504, outcome
//     unknown.
//  2. A request that changes something is never sent to a second node after a
//     first one may have carried it out.
//  3. A read is tried at the next database node until one has begun to answer.
//     What of the answer has come is passed on at once; when it breaks off, so
//     does the answer here, and it is never gone on with at another node.
//  4. A put with If-None-Match and no Oncekv-Put-Id gets one, so that a 412 after
//     a 504 can be told from somebody else's put.
//  5. What the caller has said of its connection to the client stays said: the
//     headers of the database node's answer are added to the caller's when the
//     answer begins, and nothing takes any away.
package forward
