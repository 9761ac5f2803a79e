// Package nodehttp makes every HTTP client with which one node of oncekv talks to another, and
// its transport. Nothing else does.
//
//	c := nodehttp.NewClient(nodehttp.Options{DialTimeout: time.Second, AnswerTimeout: 2 * time.Second})
//	defer c.CloseIdleConnections()
//	var stats client.Stats
//	err := nodehttp.GetJSON(ctx, c, url+"/stats", 1<<20, &stats)
//
// # Invariants
//
//  1. Nothing goes through a proxy, whatever the environment says: nodes reach one another
//     directly, and a proxy would see raft's messages, or keep them.
//  2. No redirect is followed. The API has none, so what answers with one is no node; and it
//     would lead past the check of the URL.
//  3. No connection is made to an address that nodeurl.CheckAddr refuses, whatever a name
//     resolves to. Private addresses are fine: that is where nodes are.
//  4. An answer is never uncompressed on the way: lengths and ranges are those of what was
//     sent, and a small answer stays small.
//  5. Identify, GetJSON and Reason give out no text of an answer. A URL may come from a
//     stranger, who must not read through a node what is out of the stranger's reach.
package nodehttp
