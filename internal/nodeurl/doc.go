// Package nodeurl says what the URL of a node, its name, and an address to listen on look like.
// Everything that takes one asks here: flags, the environment, requests, heartbeats, and what
// nodes tell one another.
//
//	url, err := nodeurl.WithPort("http://10.0.0.1:12000/") // "http://10.0.0.1:12000"
//	url, err := nodeurl.WithPort("https://10.0.0.1:12000") // `"https://10.0.0.1:12000" …: nodes speak http: write it like http://10.0.0.1:11000`
//
// # Invariants
//
//  1. An accepted URL has the one form that is compared: scheme, host in lower case, port
//     without leading zeros, and nothing after it.
//  2. Its host is an address that CheckAddr takes, or a name that no resolver takes for an
//     address. 2852039166, 0xa9fea9fe and 169.254.43518 are refused: some resolvers read them
//     as 169.254.169.254.
//  3. An error is one sentence that says what is wrong and how to write it. It shows no user
//     information, which may be a password.
//
// # Caveats
//
// A name may still resolve to an address that CheckAddr refuses. What connects has to check
// the address as well; package nodehttp does.
//
// Nothing here decides what a replica makes of a URL in its log: a rule that is stricter than
// that of an older version would make replicas differ. Rules stand where URLs come in.
package nodeurl
