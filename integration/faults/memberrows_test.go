package faults

import (
	"fmt"
	"time"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// memberRows are what operators do to a cluster that works, or half works.
func memberRows() []row {
	return []row{
		{name: "leader-transfer", plan: plan{chunked: true}, attack: leaderTransfer},
		{name: "member-add", attack: memberAdd},
		{name: "member-remove", attack: func(e *episode) { e.removeRunning(e.follower()) }},
		{name: "member-remove-leader", attack: func(e *episode) { e.removeRunning(e.world.leader()) }},
		{name: "member-replace-dead", attack: memberReplaceDead},
		{name: "member-add-one-dead", attack: memberAddOneDead},
	}
}

// transferEvery is how often the leader is moved.
const transferEvery = 2 * time.Second

// leaderTransfer moves the leader again and again.
func leaderTransfer(e *episode) {
	moves := 2 + int(run.hold/transferEvery)
	cl := clustertest.Client(e.t, urls(e.world.dbs...)...)
	for range moves {
		to := e.follower()
		since := e.history.now()
		clustertest.Eventually(e.t, "transfer to "+to.Name, func() error {
			return cl.TransferLeader(clustertest.WithTimeout(e.t), to.Name) // refused while the leader has not heard of it
		})
		e.writesBack("after a transfer to "+to.Name, since, backAfterKill, e.world.dbs...)
		e.pass(max(0, transferEvery-(e.history.now()-since)))
	}
	e.noVisibleErrors()
}

// memberAdd lets a node join.
func memberAdd(e *episode) {
	n := e.world.database(fmt.Sprintf("n%d", len(e.world.dbs)+1))
	e.join(n)
	e.becomesVoter(n)
	e.writesBack("through the new member", e.history.now(), backAfterHeal, n)
	e.noVisibleErrors()
}

// removeRunning removes a working node. It stops by itself.
func (e *episode) removeRunning(n *node) {
	since := e.history.now()
	e.remove(n)
	e.ends(n, "removed from the cluster")
	e.world.dbs = e.world.others(n)
	e.writesBack("without "+n.Name, since, backAfterKill, e.world.dbs...)
	e.noVisibleErrors()
}

// memberReplaceDead replaces a node that died.
func memberReplaceDead(e *episode) {
	victim := e.anyDB()
	kill(victim)
	e.hold(0, time.Second)
	e.replace(victim)
	e.noVisibleErrors()
}

// memberAddOneDead adds a node while another is dead, then removes the dead one.
func memberAddOneDead(e *episode) {
	victim := e.anyDB()
	kill(victim)
	rest := e.world.others(victim)
	n := e.world.database(fmt.Sprintf("n%d", len(e.world.dbs)+1))
	e.world.dbs = rest
	e.join(n)
	e.becomesVoter(n)
	e.remove(victim)
	e.writesBack("without "+victim.Name, e.history.now(), backAfterKill, e.world.dbs...)
	e.noVisibleErrors()
}
