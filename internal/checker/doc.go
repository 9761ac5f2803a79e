// Package checker decides whether what clients of a cluster saw can be true of
// keys that are set once: whether the history is linearizable. Simulation and
// fault tests record every request as an Op and hand all of them to Check.
//
// # Why it can be linear
//
// Whether a history of a register that is written again and again is
// linearizable is NP-complete: porcupine and Knossos search. A key that is set
// once has one moment s at which it is set, and everything follows from it. Per
// key, with closed intervals [call, return] on one monotonic clock, and return =
// ∞ for what nobody knows the outcome of:
//
//   - All values that were seen are one value w: what a put created or found
//     unchanged, what a conflict names as the winner, what a get found. At most
//     one put created it, and no put of w was refused by w.
//   - Somebody must have put it. The candidates are the put that was answered
//     created; without one, the puts of w whose outcome is unknown, and those
//     answered unchanged: a client's retry finds what its own first try has set.
//   - s is not before the earliest call of a candidate, nor before the call of
//     any get that found nothing: that one was ordered before s. Of all these, L
//     is the latest.
//   - s is not after the return of anything that saw the key set. Of all these,
//     R is the earliest.
//
// The history is linearizable if and only if L ≤ R: then any s between is one.
// A test holds this against porcupine's search, history by history.
//
// Revisions tie the keys together: a key has one, no two keys share one, and
// there are moments s in the order of revisions. That a later revision was set no
// earlier is decided by one pass over the keys in that order.
//
// # What is no Op
//
// A request that was definitely refused (a put that was not proposed, a get
// without an answer) claims nothing but that it had no effect. It is left out;
// should its value turn up, no candidate has put it, and Check says so.
package checker
