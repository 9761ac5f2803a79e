package kvstore

import (
	"errors"
	"testing"
)

// TestStore_Changes_OfAnotherHistory: nobody gets records of another history than asked
// for, also when there are none.
func TestStore_Changes_OfAnotherHistory(t *testing.T) {
	s, err := OpenStore(StoreConfig{History: NewMemEngine(), Index: NewMemEngine()})
	if err != nil {
		t.Fatal(err)
	}
	own, other := s.History().ID, HistoryID{1, 2, 3}
	if _, err := s.Changes(ChangesRequest{History: own, Limit: 1}); err != nil {
		t.Errorf("of its own: %v", err)
	}
	var changed *HistoryChangedError
	if _, err := s.Changes(ChangesRequest{History: other, After: 7, Limit: 1}); !errors.As(err, &changed) || changed.Asked != other || changed.History != own || changed.Since != 7 || changed.Newest != 0 {
		t.Errorf("of another: %v", err)
	}
}
