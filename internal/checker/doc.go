// Package checker decides whether what clients saw of a cluster is possible for keys that are
// set once: whether the history is linearizable. Simulation and fault tests record every
// request as an Op and pass all of them to Check.
//
// # Why it can be linear
//
// To decide whether a history of a register that is written repeatedly is linearizable is
// NP-complete: porcupine and Knossos search. A key that is set once has one moment s at which
// it is set, and everything follows from it. Per key, with closed intervals [call, return] on
// one monotonic clock, and return = ∞ for an unknown outcome:
//
//   - All values that were seen are one value w: what a put created or found unchanged, what a
//     conflict names as the winner, what a get found. At most one put created it, and no put
//     of w was refused by w.
//   - Somebody must have put it. The candidates are the put that was answered created; without
//     one, the puts of w whose outcome is unknown, and those answered unchanged: a client's
//     retry finds what its own first try has set.
//   - s is not before the earliest call of a candidate, nor before the call of any get that
//     found nothing: that get was ordered before s. Of all these, L is the latest.
//   - s is not after the return of anything that saw the key set. Of all these, R is the
//     earliest.
//
// The history is linearizable if and only if L ≤ R: then any s between them is valid. A test
// checks this against porcupine's search, history by history.
//
// Revisions tie the keys together: a key has one, no two keys share one, and there are moments
// s in the order of revisions. One pass over the keys in that order decides whether any later
// revision was set earlier.
//
// # What is not an Op
//
// A request that was definitely refused (a put that was not proposed, a get without an answer)
// claims only that it had no effect. Leave it out: if its value turns up, no candidate has put
// it, and Check says so.
package checker
