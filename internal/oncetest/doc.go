// Package oncetest is the suite that every store of keys that are set once passes, whatever
// is between it and the disk: a database, a client over HTTP, a cache node, a fake. It
// states what a user may rely on, one property a test.
//
//	func TestStore_SetsOnce(t *testing.T) {
//		oncetest.Run(t, func(t *testing.T) oncetest.Store { return newStore(t) })
//	}
//
// A store that cannot do everything declares what it lacks (Store.Lacks); Run then checks
// that it refuses those requests. Memory is the smallest store that passes, and OfClient
// makes a store of a Go client.
//
// Rooms, each of which uses only rooms below it:
//
//	run.go                       the properties by name, and their test
//	walks.go                     properties of lists and changes
//	puts.go, values.go, keys.go  of puts and gets
//	racing.go                    of many puts at the same time
//	trial.go                     what properties are written with
//	ofclient.go, memory.go       stores
//	store.go                     what a store is
//
// # Invariants
//
//  1. A property needs only Store, so that it means the same for every store.
//  2. Every property fails for a store that breaks it: the package's tests have
//     such stores for each.
//  3. A store may have been used before, and may be used for several properties.
//     While a property runs, nobody else may put: it counts revisions.
package oncetest
