package hostile

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// attack is one way to harm a cluster.
type attack struct {
	name string
	run  func(*attacker)
	plan plan

	quick bool // run by every go test
	// cuts is true if the attack takes all connections of a node: bystanders may then find a
	// connection closed, and try again within the bound.
	cuts bool
	// near also runs the attack from the bystanders' own address.
	near bool
}

// TestAttack runs every attack against its own world.
func TestAttack(t *testing.T) {
	wanted, err := regexp.Compile(run.attacks)
	if err != nil {
		t.Fatalf("-attack: %v", err)
	}
	all := os.Getenv("ONCEKV_TEST_FULL") != "" && !clustertest.Race
	played := 0
	for _, a := range attacks() {
		if !wanted.MatchString(a.name) || !all && !a.quick && run.attacks == "" {
			continue
		}
		played++
		t.Run(a.name, func(t *testing.T) {
			t.Parallel() // as many as -parallel says
			play(t, a, farAddress)
		})
		if a.near && (all || run.attacks != "") {
			t.Run(a.name+"-near", func(t *testing.T) {
				t.Parallel()
				play(t, a, "")
			})
		}
	}
	if played == 0 {
		t.Fatalf("-attack: no attack matches %q", run.attacks)
	}
}

func attacks() []attack {
	peace := attack{name: "peace", quick: true, run: (*attacker).hold} // what is judged holds without an attack
	return slices.Concat([]attack{peace}, raftAttacks(), starvingAttacks(), readerAttacks(), floodAttacks(), smugglingAttacks(), namingAttacks(), rangeAttacks(), rubbishAttacks())
}

// play runs one attack and judges it. from is the attacker's address, empty for the
// bystanders'.
func play(t *testing.T, a attack, from string) {
	w := newWorld(t, a.plan)
	before := w.figures()
	watch := w.watch(a.cuts)
	watch.rounds(2) // everything is served before anything happens
	memory := clustertest.WatchMemory(t, w.all()...)

	attacker := newAttacker(t, w, watch, from)
	a.run(attacker)
	attacker.end()
	attacker.tellRest()

	watch.rounds(2) // and is afterwards
	w.judgeLogs()   // first: it may be the cause of all else
	watch.stop()
	for n, limit := range before.memoryMax() {
		if n.Running() {
			memory.Bound(limit, n)
		}
	}
	w.judgeFigures(before)
	w.judgeRestart()
}
