// Package hosts decides by which names a node may be reached.
//
//	names, err := hosts.New(hosts.Config{Allowed: []string{".example.com"}, URLs: own, Members: members})
//	names.Allows("oncekv.example.com:11000") // true
//
// Without that, a web page could make its own name lead to a node (DNS rebinding). To a
// browser the node is then the page's own server, which the page may read from and send
// anything to. The browser cannot hide the name, in Host.
//
// # Invariants
//
//  1. Allowed are IP literals and localhost, which no page can make its own, the names in the
//     URLs that the operator gave the node and in those of the cluster's members, and what
//     Config.Allowed says. Nothing else is.
//  2. A new member's name counts at once. A former member's name counts for a second at most.
//  3. A configured name is found without a lock or an allocation.
package hosts
