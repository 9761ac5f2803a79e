package adminui

import (
	"errors"
	"net"
	"net/url"
	"syscall"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// probe is what asking one node for its metrics has shown.
type probe struct {
	asked    bool      // a question is under way
	first    time.Time // known since
	up       time.Time // answers without a break since; zero: it does not
	answered time.Time // last answer; zero: never
	err      error     // of the last question
	news     outline   // what people were told last
}

func (p *probe) note(a reply) {
	p.asked, p.err = false, a.err
	if a.err != nil {
		if gone(a.err) {
			p.up = time.Time{}
		}
		return
	}
	if p.up.IsZero() || a.at.Sub(p.answered) > silentMax {
		p.up = a.at
	}
	p.answered = a.at
}

// answers reports whether the node counts as alive: nothing says that it is
// gone, and it has answered lately. One slow answer is no death.
func (p *probe) answers() bool { return p.answersAt(time.Now()) }

func (p *probe) answersAt(now time.Time) bool {
	return !p.up.IsZero() && now.Sub(p.answered) <= silentMax
}

// gone reports whether an error means that nothing runs there, not that it is slow.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// reason says in words why the node does not answer.
func (p *probe) reason() string {
	var timeout net.Error
	switch {
	case errors.Is(p.err, syscall.ECONNREFUSED):
		return "nothing listens at its address"
	case errors.As(p.err, &timeout) && timeout.Timeout(), p.err == nil:
		return "no answer in time"
	}
	var transport *url.Error
	var status *nodehttp.StatusError
	if errors.As(p.err, &transport) || errors.As(p.err, &status) {
		return nodehttp.Reason(p.err) // none of what was answered
	}
	return p.err.Error()
}

// condition is how the node is now. A node that was never reached is down since
// it became known.
func (p *probe) condition(now time.Time, starting string) Condition {
	switch {
	case !p.answersAt(now) && p.answered.IsZero():
		return Condition{Status: StatusDown, Since: p.first.UTC(), Reason: "it has not answered yet: " + p.reason()}
	case !p.answersAt(now):
		return Condition{Status: StatusDown, Since: p.answered.UTC(), Reason: p.reason()}
	case starting != "":
		return Condition{Status: StatusStarting, Since: p.up.UTC(), Reason: starting}
	}
	return Condition{Status: StatusUp, Since: p.up.UTC()}
}

// database is one database node, a member or a seed.
type database struct {
	probe
	url     string
	seed    bool
	listing bool        // it was asked for its lists
	member  *api.Member // as the guide has it; nil: a seed that is no member
	stats   *api.Stats  // the last answer
	history history     // of its counters
}

func (d *database) name() string {
	if d.member != nil {
		return d.member.Name
	}
	return d.url
}

func (d *database) leads() bool { return d.stats != nil && d.stats.Role == api.RoleLeader }

// cache is one cache node.
type cache struct {
	probe
	url     string
	name    string
	left    bool // it said goodbye
	stats   *api.CacheStats
	history history // of its counters
}

// outline is what of a node people should hear of at once.
type outline struct {
	status string
	leader string
	term   uint64
	ready  bool
}

func (d *database) outline() outline {
	o := outline{status: d.condition(time.Now(), "").Status}
	if d.stats != nil {
		o.leader, o.term = d.stats.Leader, d.stats.Term
	}
	return o
}

func (c *cache) outline() outline {
	o := outline{status: c.condition(time.Now(), "").Status}
	if c.stats != nil {
		o.ready = c.stats.Ready
	}
	return o
}

// silentMax is how long a node may give no answer before it is down.
const silentMax = 2 * time.Second

// reply is what became of one question.
type reply struct {
	url  string
	kind question
	at   time.Time // when the answer was there
	err  error

	stats   api.Stats
	cache   api.CacheStats
	members api.Members
	caches  []api.CacheNode
}

type question int

const (
	askDatabase  question = iota // a database node's metrics
	askCache                     // a cache node's metrics
	askDirectory                 // a database node's lists of nodes
)
