// Package budget shares out a fixed amount of something that requests hold for as long as a
// client takes: bytes of memory, or places.
//
//	places := budget.New(256)
//	h := places.Hold(host, grace, func() { endTheStream() })
//	defer h.Close()
//	if err := h.Acquire(ctx, 1, time.Second); err != nil {
//		return err // budget.ErrShort
//	}
//	h.Waiting()          // for the client, from now on
//	n, err := read(p)
//	h.Moved(n)           // no longer
//
// # Invariants
//
//  1. What is handed out never exceeds what there is, and comes back whole when its holder is
//     closed.
//  2. Waiters are served in order.
//  3. As long as nobody is short of anything, nobody is ended: a client may be as slow as it
//     likes.
//  4. When somebody is short, holders give way whose clients make others wait: first those that
//     rest, then those whose clients have moved less than SlowBytesPerSecond for longer than
//     their grace. Time that a holder spends on anything but its client does not count.
//  5. Of those, the holders of the address that holds most go first, and of one address the
//     one that has waited longest.
//
// A holder that is ended keeps what it holds until its owner closes it, which must be soon.
package budget
