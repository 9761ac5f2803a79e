// Package wire sends the requests of package load to a node of oncekv over one connection of
// HTTP/1.1, with as little work as possible: a load generator beside the cluster takes
// processor time from it.
//
//	c, err := wire.New("http://127.0.0.1:11000", 5*time.Second)
//	…
//	defer c.Close()
//	var tally load.Tally
//	err = c.Call(ctx, &load.Request{Kind: load.Get, Item: item}, &tally)
//
// Requests are as curl sends them. Each is sent once, and the node's answer is counted, even a
// 429 or 503. Values that are read are compared with what they must be.
//
// # Invariants
//
//  1. After an error, or an answer that was not read to its end, the connection is closed;
//     the next request opens a new one.
//  2. No request takes longer than the timeout, including connecting.
//  3. The one goroutine that Call starts, the writer of a Batch, has ended when Call returns.
//
// # Caveats
//
// It is no HTTP client for anything else: it has no redirects, proxies, cookies or
// compression, and trusts that a node's answers are well-formed.
package wire
