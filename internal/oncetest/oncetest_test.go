package oncetest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
)

func TestRun_Memory(t *testing.T) {
	Run(t, func(*testing.T) Store { return &Memory{} })
}

// One store for all properties, each of which finds it as the others left it.
func TestRun_UsedMemory(t *testing.T) {
	used := &Memory{}
	Run(t, func(*testing.T) Store { return used })
}

// recorder records a property's complaints about a store.
type recorder struct {
	ctx      context.Context
	failures []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Fatalf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// failures returns a property's complaints about a store.
func failures(t *testing.T, name string, s Store) []string {
	t.Helper()
	i := slices.IndexFunc(properties, func(p property) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("there is no property %s", name)
	}
	r := &recorder{ctx: t.Context()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		properties[i].try(r, s)
	}()
	<-done
	return r.failures
}

// Each property fails for a store that breaks it, and each has such a store.
func TestProperties_FindBrokenStores(t *testing.T) {
	t.Parallel()
	for _, p := range properties {
		if len(broken[p.name]) == 0 {
			t.Errorf("no broken store for %s", p.name)
		}
	}
	for name, stores := range broken {
		for how, bend := range stores {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				b := &bent{}
				bend(b)
				said := failures(t, name, b)
				if len(said) == 0 {
					t.Fatal("nobody noticed")
				}
				t.Log(said[0])
			})
		}
	}
}

// A store that lacks something must declare it, and refuse it.
func TestRun_DeclaredCapabilities(t *testing.T) {
	t.Parallel()
	lacking := func(c Capability, refuses bool) *bent {
		b := &bent{lacks: []Capability{c}}
		if refuses {
			b.refused = c
		}
		return b
	}
	for name, c := range map[string]Capability{"IfAbsent": IfAbsent, "Keep": Keep, "ListsAreOrdered": Listing, "ChangesAreComplete": Walking} {
		if said := failures(t, name, lacking(c, true)); len(said) > 0 {
			t.Errorf("%s, declared and refused: %q", c, said)
		}
		if said := failures(t, name, lacking(c, false)); len(said) == 0 {
			t.Errorf("%s, declared and not refused: nobody noticed", c)
		}
		undeclared := lacking(c, true)
		undeclared.lacks = nil
		if said := failures(t, name, undeclared); len(said) == 0 {
			t.Errorf("%s, refused and not declared: nobody noticed", c)
		}
	}
	if said := failures(t, "FirstPutWins", lacking("flight", false)); len(said) == 0 {
		t.Error("a capability that is none: nobody noticed")
	}
	if said := failures(t, "PutIDRetried", &bent{lacks: []Capability{IfAbsent, Keep}, refused: IfAbsent}); len(said) > 0 {
		t.Errorf("a property that does without: %q", said)
	}
}
