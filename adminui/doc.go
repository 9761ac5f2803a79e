// Package adminui is the admin: what it knows of a whole cluster, and the web
// page that shows it.
//
//	watch, err := adminui.NewWatch(adminui.WatchConfig{Nodes: seeds, Shares: cachetier.Shares, Owner: cachetier.Owner})
//	go watch.Run(ctx) // its owner waits for it
//	handler := httpapi.NewAdmin(httpapi.AdminConfig{Topology: watch, Page: adminui.NewPage(), Forward: forward.New(…), …})
//
// A file uses only files further down:
//
//	page.go      the web page
//	watch.go     asks nodes, and publishes what it learns
//	topology.go  knows the nodes, and makes a State of them
//	health.go    puts a State into words
//	probe.go     what one node answers
//	rates.go     how fast counters grow
//	state.go     the State, as JSON
//
// # The watch
//
// A Watch holds nothing that is not known elsewhere: it may be started and
// stopped at any time, and there may be several. Twice a second it asks every
// node it knows for GET /stats, all at once, and the guide (the leader, or else the
// node that has applied most) for GET /members and GET /caches. A node that owes an
// answer is not asked again, and delays no other.
//
// Out of the answers it makes a State, at every look and in between whenever a
// node comes, goes, or changes its part. Only the newest is kept: a reader asks
// with Next for one that it has not seen, so that a slow reader misses states
// in between, never the newest, and nothing is kept for it.
//
// # The page
//
// src is Vue 3 with Element Plus, in TypeScript; `npm ci && npm run build` makes
// dist of it, which is committed and embedded, so that Go alone builds the
// program. The build is reproducible, and CI fails if dist is not what src
// makes. In the browser, cluster.ts holds the one event stream and the newest
// state, api.ts makes the requests, and each view has a file in src/views.
//
// Health is the state in words, and comes from one place, health.go: the page
// shows its sentences and makes up none. What a view could not read it tries again
// by itself, after pauses that grow (retry.ts), and at once when the nodes are back;
// until then it says since when. It offers no change that is sure to be refused.
//
// The page is served with a Content-Security-Policy that lets it load and reach
// its own origin only, and run nothing that is not a file of the bundle.
//
// # Invariants
//
//  1. A node is shown as down within three seconds of its last answer: at once
//     when nothing listens at its address, else after two seconds of silence.
//     Since is its last answer.
//  2. At most one member is shown as leader: the one that an answering node of
//     the newest term names.
//  3. Rates count every request of a client once, wherever it was answered: what
//     cache nodes ask of the database is taken away.
//  4. A member that is not one any more is forgotten, and so is a cache node of
//     which the database has not heard for ten minutes.
//  5. How many voters may fail is counted from those that answer the admin and are
//     heard by the cluster, not from those that there are.
//  6. All metrics come from the nodes themselves. The Watch never changes anything.
//
// # Caveats
//
// "Down" is what the admin sees: a node that it cannot reach may serve others.
// Member.Healthy is what the cluster sees.
//
// Nodes are asked one after another within milliseconds, not at one moment:
// under load, lags of a few entries and different revisions are no news.
package adminui
