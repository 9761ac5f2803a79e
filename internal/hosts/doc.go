// Package hosts decides by which names a node may be asked.
//
//	names, err := hosts.New(hosts.Config{Allowed: []string{".example.com"}, URLs: own, Members: members})
//	names.Allows("oncekv.example.com:11000") // true
//
// Without that, a web page could make its own name lead to a node (DNS
// rebinding): to a browser the node is then the page's own server, of which it
// may read everything, and send anything to. What the browser cannot hide is the
// name, in Host.
//
// # Invariants
//
//  1. Allowed are IP literals and localhost, which no page can make its own; the
//     names in URLs that whoever runs the node gave it, and in those of the
//     cluster's members; and what Config.Allowed says. Nothing else, and no name
//     that merely asked.
//  2. A name of a new member counts at once; that of a member that is none any
//     more, for a second at most.
//  3. A name that was configured is found without a lock or an allocation.
package hosts
