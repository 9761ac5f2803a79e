package faults

// forcedInEnvironment is a setting for one start that stays in a unit.
var forcedInEnvironment = []string{"ONCEKV_FORCE_NEW_CLUSTER=true", "ONCEKV_YES=true"}

// forceRows are what operators do when the majority is lost.
func forceRows() []row {
	return []row{
		{name: "force-old-members", plan: plan{databases: 3}, attack: func(e *episode) { e.force(true) }},
		{name: "force-kept", plan: plan{databases: 3}, attack: func(e *episode) { e.force(false) }},
	}
}

// force loses the majority, forces a new cluster of the remaining node, and adds the others
// again. With oldMembers they first come back with the data of the ended cluster: together
// they are a majority of it, and must acknowledge nothing. Otherwise the setting is still
// there at the next start, which must not force again.
func (e *episode) force(oldMembers bool) {
	left, lost := e.alone()
	kill(left)
	env := left.Env
	left.Env = append(left.Env, forcedInEnvironment...)
	since := e.history.now()
	left.Start()
	e.writesBack("through a forced cluster", since, backAfterKill, left)
	if oldMembers {
		for _, n := range lost {
			n.Start()
		}
		for _, n := range lost {
			e.ends(n, "forced a new cluster", "--join")
		}
	}
	for _, n := range lost {
		n.wipe(e.t)
		e.world.equip(n)
		n.Args = append(n.Args, "--join", left.URL())
		n.Start()
		e.becomesVoter(n)
	}
	if !oldMembers {
		kill(left)
		left.Start()
		e.endsWith(codeWrongSetting, left, "done already", "ONCEKV_FORCE_NEW_CLUSTER")
	} else {
		kill(left)
	}
	left.Env = env
	since = e.history.now()
	left.Start()
	e.writesBack("in a forced cluster that has grown", since, backAfterHeal, e.world.dbs...)
}

// alone kills all database nodes but the leader, which has everything that was acknowledged.
func (e *episode) alone() (left *node, lost []*node) {
	e.t.Helper()
	left = e.world.leader()
	lost = e.world.others(left)
	kill(lost...)
	if s, err := left.Stats(); err != nil || s.Term != e.world.term() {
		e.t.Fatalf("%s does not lead any more: %+v, %v", left.Name, s, err)
	}
	e.t.Logf("%s is left of %d", left.Name, len(lost)+1)
	return left, lost
}
