package kvstore

import "testing"

// An install begins while a flush ends.
func TestStore_Install_WhileAFlushEnds(t *testing.T) {
	log, m := randomLog(t, 3, 120)
	cfg := tiny()
	cfg.MemtableBytes, cfg.GenerationBytes, cfg.CommitBytes = 60000, 1000, 2000
	sender := mustOpen(t, newMemDisks(), cfg)
	if err := runLog(t, sender, log); err != nil {
		t.Fatal(err)
	}
	index, _, meta, snap, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		s := mustOpen(t, newMemDisks(), cfg)
		for j := range 40 + i {
			mustApply(t, s, &log[j])
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := s.Stage(t.Context(), snap, serveFrom(sender), testFetch); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- s.flushFrozen(t.Context()) }()
		if err := s.Install(index, 7, meta, snap); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			m.check(t, s)
		}
	}
}
