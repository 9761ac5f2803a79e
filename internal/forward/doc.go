// Package forward passes requests on to a live database node. Cache nodes and the admin use
// it, so that a client needs only one URL.
//
//	h := forward.New(forward.Config{Databases: nearestFirst, Logger: logger})
//	h.ServeHTTP(w, r)
//
// Small puts may go by Put instead, which sends them as frames, many in one request,
// and brings back what the node decides.
//
// Both bodies stream; path and query stay unchanged. Host becomes the database node's, and
// Origin and Sec-Fetch-* are removed: the caller has checked them. The caller also decides
// which requests may be forwarded.
//
// # Invariants
//
//  1. A failure keeps its meaning. While nothing of the body has been sent, the
//     next database node is tried, and if none takes the request the answer is
//     503, definitely not proposed. After that, no answer is 504, outcome unknown.
//  2. A request that changes something is never sent to a second node after a
//     first one may have carried it out.
//  3. A read is tried at the next database node until one has begun to answer.
//     The answer is passed on as it arrives. If it breaks off, so does the answer
//     here; it never continues from another node.
//  4. A put with If-None-Match and no Oncekv-Put-Id gets one, so that a 412 after
//     a 504 can be told from somebody else's put.
//  5. The headers that the caller has set about its connection to the client
//     survive: the database node's headers are added to them when the answer
//     begins, and nothing removes any.
package forward
