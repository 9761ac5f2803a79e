package budget

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

const long = time.Minute

// ended returns a function to end with, and what is closed when it is called.
func ended() (end func(), over chan struct{}) {
	over = make(chan struct{})
	return func() { close(over) }, over
}

func isOver(over chan struct{}) bool {
	select {
	case <-over:
		return true
	default:
		return false
	}
}

func take(t *testing.T, h *Holder, n int64) {
	t.Helper()
	if err := h.Acquire(t.Context(), n, long); err != nil {
		t.Fatal(err)
	}
}

// TestBudget_ServesInOrder: whoever waits is served in order, and what is given
// back is all there.
func TestBudget_ServesInOrder(t *testing.T) {
	t.Parallel()
	b := New(10)
	if !b.Try(10) {
		t.Fatal("a free budget refuses")
	}
	got := make(chan int, 3)
	for i, n := range []int64{6, 4, 1} {
		go func() {
			if err := b.Acquire(t.Context(), n, time.Minute); err != nil {
				t.Error(err)
			}
			got <- i
		}()
		for b.waits() <= i {
			runtime.Gosched()
		}
	}
	b.Give(5)
	if len(got) != 0 {
		t.Fatal("a later, smaller waiter overtook")
	}
	b.Give(5)
	if a, c := <-got, <-got; a+c != 1 {
		t.Fatalf("waiters %d and %d were served first", a, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Acquire(ctx, 1, time.Minute); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.Give(10)
	<-got
	if b.Free() != 9 {
		t.Fatalf("%d bytes are free, want 9", b.Free())
	}
}

func (b *Budget) waits() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiters)
}

// TestBudget_NobodyIsEndedWithoutNeed: a client may be slow while there is enough.
func TestBudget_NobodyIsEndedWithoutNeed(t *testing.T) {
	t.Parallel()
	b := New(2)
	end, over := ended()
	h := b.Hold("a", 0, end)
	defer h.Close()
	take(t, h, 1)
	h.Resting()
	other := b.Hold("a", 0, func() {})
	take(t, other, 1)
	if isOver(over) {
		t.Error("it was ended")
	}
	other.Close()
}

// TestBudget_WhoGivesWay: those that rest go before those that are slow, the ones
// of the address that holds most before the others, and who works does not go.
func TestBudget_WhoGivesWay(t *testing.T) {
	t.Parallel()
	b := New(5)
	var order []string
	holders := make(map[string]*Holder)
	newcomers := make(chan struct{}, 5)
	add := func(name, from string, state func(*Holder)) {
		h := b.Hold(from, 0, func() {
			order = append(order, name)
			newcomers <- struct{}{}
		})
		take(t, h, 1)
		state(h)
		holders[name] = h
	}
	add("works", "many", (*Holder).Working)
	add("slow of one", "one", (*Holder).Waiting)
	add("slow of many", "many", (*Holder).Waiting)
	add("rests first", "many", (*Holder).Resting)
	add("rests later", "many", (*Holder).Resting)
	for _, name := range []string{"rests first", "rests later", "slow of many", "slow of one"} {
		over := make(chan error, 1)
		go func() { over <- b.Acquire(context.Background(), 1, long) }()
		<-newcomers
		if last := order[len(order)-1]; last != name {
			t.Fatalf("%q was ended, want %q; before it %q", last, name, order)
		}
		holders[name].Close()
		if err := <-over; err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Acquire(t.Context(), 1, 2*lookAgain); !errors.Is(err, ErrShort) {
		t.Errorf("who works gave way: %v", err)
	}
	b.Give(4)
	holders["works"].Close()
	if b.Free() != 5 {
		t.Errorf("%d are free", b.Free())
	}
}

// TestBudget_SlowWithTime: a client that becomes slow while others wait gives way
// then; one that moves enough does not.
func TestBudget_SlowWithTime(t *testing.T) {
	t.Parallel()
	b := New(2)
	end, over := ended()
	slowly := b.Hold("a", lookAgain, end)
	take(t, slowly, 1)
	quickly := b.Hold("b", lookAgain, func() { t.Error("a client that moves was ended") })
	take(t, quickly, 1)
	slowly.Waiting()
	quickly.Waiting()
	quickly.Moved(1 << 30)
	quickly.Waiting()
	go func() {
		<-over
		slowly.Close()
	}()
	if err := b.Acquire(t.Context(), 1, long); err != nil {
		t.Fatal(err)
	}
	quickly.Close()
	b.Give(1)
	if b.Free() != 2 {
		t.Errorf("%d are free", b.Free())
	}
}

// TestHolder_Keep: what is held beyond what is kept goes to those who wait.
func TestHolder_Keep(t *testing.T) {
	t.Parallel()
	b := New(10)
	h, other := b.Hold("a", long, nil), b.Hold("b", long, nil)
	take(t, h, 10)
	h.Keep(12)
	if b.Free() != 0 {
		t.Fatalf("%d are free after more was kept than is held", b.Free())
	}
	got := make(chan error)
	go func() { got <- other.Acquire(t.Context(), 6, long) }()
	for b.waits() == 0 {
		runtime.Gosched()
	}
	h.Keep(4)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	h.Close()
	other.Close()
	if b.Free() != 10 {
		t.Fatalf("%d are free, want 10", b.Free())
	}
}
