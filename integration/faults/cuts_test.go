package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// oneWay drops what from sends to to.
func oneWay(from, to *host) {
	to.dropped[from.name] = true
	to.filter()
}

// cut drops everything between every host of a and every host of b.
func cut(a, b []*host) {
	for _, x := range a {
		for _, y := range b {
			oneWay(x, y)
			oneWay(y, x)
		}
	}
}

// lose drops so many percent of the packets between any two hosts.
func (n *network) lose(percent int) {
	n.t.Helper()
	for _, to := range n.hosts {
		for _, from := range n.hosts {
			if from != to {
				to.lossy[from.name] = percent
			}
		}
		to.filter()
	}
}

// heal ends all cuts and losses.
func (n *network) heal() {
	n.t.Helper()
	for _, h := range n.hosts {
		if len(h.dropped)+len(h.lossy) > 0 {
			clear(h.dropped)
			clear(h.lossy)
			h.filter()
		}
	}
}

// filter applies the host's rules, all at once. Packets are dropped on arrival, without a
// message to the sender.
func (h *host) filter() {
	h.net.t.Helper()
	var rules strings.Builder
	rules.WriteString("add table inet faults\ndelete table inet faults\ntable inet faults {\n chain input {\n  type filter hook input priority 0; policy accept;\n")
	for _, from := range slices.Sorted(maps.Keys(h.dropped)) {
		fmt.Fprintf(&rules, "  ip saddr %s drop\n", h.net.named(from).addr)
	}
	for _, from := range slices.Sorted(maps.Keys(h.lossy)) {
		fmt.Fprintf(&rules, "  ip saddr %s numgen random mod 100 < %d drop\n", h.net.named(from).addr, h.lossy[from])
	}
	rules.WriteString(" }\n}\n")
	if err := command(rules.String(), append(h.inside(), "nft", "-f", "-")...); err != nil {
		h.net.t.Fatal(err)
	}
}

func (n *network) named(name string) *host {
	for _, h := range n.hosts {
		if h.name == name {
			return h
		}
	}
	n.t.Fatalf("there is no host %s", name)
	return nil
}
