// Package secure makes every TLS configuration of oncekv, and says who is at the other end of
// a connection. Nothing else does.
//
// A node has a directory with these files in PEM:
//
//	ca.crt       certificates of the authorities that sign for this cluster, one or more
//	node.crt     the node's certificate for other nodes, and node.key
//	server.crt   its certificate for everybody else, and server.key
//
// A node's name is in the URI of node.crt: spiffe://CLUSTER/ROLE/NAME, see ID. One port has
// two faces. Whoever offers the protocol oncekv-node by ALPN is shown node.crt, and must show
// the certificate of a node of the same cluster. Everybody else is shown server.crt and asked
// for nothing, so that no browser asks a person for a certificate.
//
//	files, err := secure.Open(secure.Config{Dir: "secure/n1"})
//	go files.Run(ctx)                        // takes in files that have changed
//	conn := files.Accept(raw, secure.Public) // the server's side of a connection
//	conn, err := files.Dial(ctx, raw, want)  // the client's
//
// # Invariants
//
//  1. TLS 1.3 only, HTTP/1.1 only, no session tickets: each connection is checked anew
//     against the authorities of now.
//  2. Both ends of a connection between nodes check the other's chain, cluster, role and, if
//     it is known, name. A certificate for clients is never good for a node, nor the other
//     way round.
//  3. A certificate between nodes that has expired is accepted and logged: an expired
//     certificate must not stop a cluster. One that is revoked or not yet valid is not.
//  4. Files are taken in whole or not at all. Those that do not fit together change nothing.
//  5. No key leaves the package, and no error or log line has the bytes of one.
package secure
