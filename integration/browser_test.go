package integration

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// downWithin is when the page must show a dead node as down. On a free machine that takes up
// to 3 s; without the page's own clock it would take as long as TCP's timeout, which is
// minutes.
const downWithin = 30 * time.Second

// tour is one user's way through the admin's page, in a real browser, in front of a cluster of
// real processes.
type tour struct {
	*page
	cluster *clustertest.Processes
	admin   *clustertest.Process
}

func TestBrowser_Tour(t *testing.T) {
	chromium(t) // before anything is started for nothing
	cluster := clustertest.NewProcesses(t, bin, 3, 3)
	cluster.StartAll()
	admin := cluster.NewAdmin()
	admin.Start()
	admin.WaitReady()
	v := &tour{page: openPage(t, admin.URL()), cluster: cluster, admin: admin}
	for _, step := range []struct {
		name string
		run  func()
	}{
		{"the overview shows every node", v.overview},
		{"a key is set once", v.keys},
		{"a value is shown as what it is", v.values},
		{"the history follows", v.history},
		{"keys come in pages", v.pages},
		{"a dead follower", v.deadFollower},
		{"a dead cache node", v.deadCache},
		{"a node that hangs", v.hanging},
		{"the leadership moves", v.transfer},
		{"a removal is refused", v.refusal},
		{"the admin goes away and comes back", v.lost},
		{"a chosen theme stays", v.theme},
	} {
		start := time.Now()
		step.run()
		v.clean(step.name)
		t.Logf("%s: %.1f s", step.name, time.Since(start).Seconds())
	}
}

func (v *tour) overview() {
	v.show("overview")
	v.sees(3, hook("db-card", "[data-status=up]"))
	v.sees(3, hook("cache-card", "[data-status=up]"))
	v.leads(v.cluster.Leader())
	v.sees(1, hook("health", "[data-level=ok]"))
	v.t.Logf("the first view took %.0f kB over the network", v.traffic()/1000)
	if v.traffic() > 500_000 {
		v.t.Error("that is more than 500 kB")
	}
	v.look("overview")
}

// show opens a view by its link.
func (v *tour) show(view string) {
	v.t.Helper()
	v.click(hook("nav-"+view, ""))
	v.sees(1, hook("nav-"+view, "[aria-current=page]"))
}

// leads waits until a node's card on the overview has the leader's mark, and no other has it.
func (v *tour) leads(n *clustertest.Process) {
	v.t.Helper()
	v.sees(1, hook("db-card", "[data-role=leader][data-name="+n.Name+"] ")+hook("leader-mark", ""))
	v.sees(1, hook("db-card", " ")+hook("leader-mark", ""))
}

// The key contains everything over which a URL could trip.
const (
	tourKey   = "tour/v1.2.3/..//a b+c%41&d=e#ü?.txt"
	tourValue = "The first put wins.\n"
)

func (v *tour) keys() {
	v.show("keys")
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(tourValue)))
	v.put(tourKey, tourValue, "created")
	v.reads(hook("put-result", ""), digest)
	revision := v.revisionOf(tourKey)

	v.put(tourKey, "The second does not.\n", "conflict")
	v.reads(hook("put-result", ""), strconv.FormatUint(revision, 10), digest, tourValue[:10])
	v.refused("PUT", "/api/key", http.StatusConflict)
	v.look("keys-conflict")

	v.put(tourKey, tourValue, "unchanged")
	v.clean("three puts")
}

// put fills the form and waits for the outcome.
func (v *tour) put(key, value, outcome string) {
	v.t.Helper()
	v.fill(hook("put-key", ""), key)
	v.fill(hook("put-value", ""), value)
	v.click(hook("put-submit", ""))
	v.sees(1, hook("put-result", "[data-outcome="+outcome+"]"))
}

// revisionOf asks the cluster itself.
func (v *tour) revisionOf(key string) uint64 {
	v.t.Helper()
	o, err := clustertest.Client(v.t, clustertest.URLs(v.cluster.DBs...)...).Get(clustertest.WithTimeout(v.t), key, client.GetOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	defer o.Body.Close()
	return o.Revision
}

// dot is an image of one pixel.
const dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

func (v *tour) values() {
	image, err := base64.StdEncoding.DecodeString(dot)
	if err != nil {
		v.t.Fatal(err)
	}
	put := clustertest.Client(v.t, clustertest.URLs(v.cluster.DBs...)...)
	for _, x := range []struct{ key, value, contentType, kind, shown string }{
		{"kinds/binary", "\x00\x01\xfe\xff", "application/octet-stream", "hex", "00 01 fe ff"},
		{"kinds/image", string(image), "image/png", "image", ""},
		{"kinds/json", `{"replicas":[1,2,3]}`, "application/json", "json", `"replicas"`},
		{"kinds/markup", "<img src=x onerror=alert(1)>", "text/html", "text", "<img src=x onerror=alert(1)>"},
	} {
		if _, err := put.PutBytes(clustertest.WithTimeout(v.t), x.key, []byte(x.value), client.PutOptions{ContentType: x.contentType}); err != nil {
			v.t.Fatal(err)
		}
		v.open("kinds/", x.key)
		v.sees(1, hook("value-view", "[data-kind="+x.kind+"]"))
		v.reads(hook("value-view", ""), x.shown)
	}
	v.open("tour/", tourKey)
	v.sees(1, hook("value-view", "[data-kind=text]"))
	v.reads(hook("value-view", ""), tourValue[:len(tourValue)-1])
	clustertest.Eventually(v.t, "the owner is one of the cache nodes", func() error {
		if owner := v.text(hook("value-owner", "")); owner != "c1" && owner != "c2" && owner != "c3" {
			return fmt.Errorf("the owner is %q", owner)
		}
		return nil
	})
	got := eval[string](v.page, "fetch(document.querySelector('"+hook("value-download", "")+"').href).then((r) => r.text())")
	if got != tourValue {
		v.t.Errorf("the download has %q; want %q", got, tourValue)
	}
	v.look("keys-value")
}

// open opens a key from the list of those with a prefix.
func (v *tour) open(prefix, key string) {
	v.t.Helper()
	v.fill(hook("keys-prefix", ""), prefix)
	row := hook("keys-row", fmt.Sprintf("[data-key=%q]", key))
	v.sees(1, row)
	v.click(row + " a")
	v.reads("[aria-labelledby=value-title] h2", key)
}

// set sets a key without the page.
func (v *tour) set(key string) {
	v.t.Helper()
	cl := clustertest.Client(v.t, v.cluster.DBs[0].URL())
	if _, err := cl.PutBytes(clustertest.WithTimeout(v.t), key, []byte("x"), client.PutOptions{}); err != nil {
		v.t.Fatal(err)
	}
}

func (v *tour) pages() {
	v.show("keys")
	const keys = 120
	for i := range keys {
		v.set(fmt.Sprintf("pages/%03d", i))
	}
	v.fill(hook("keys-prefix", ""), "pages/")
	row := func(i int) string { return hook("keys-row", fmt.Sprintf("[data-key='pages/%03d']", i)) }
	v.sees(1, row(0))
	seen := 0
	for {
		seen += v.count(hook("keys-row", ""))
		if v.count(row(keys-1)) == 1 {
			break
		}
		v.click(hook("keys-next", ""))
		v.sees(1, row(seen))
	}
	if seen != keys {
		v.t.Errorf("the pages have %d rows; want %d", seen, keys)
	}
	v.sees(1, hook("keys-next", ":disabled"))
}

func (v *tour) history() {
	v.show("history")
	row := func(key string) string { return hook("changes-row", fmt.Sprintf("[data-key=%q]", key)) }
	v.sees(1, row(tourKey))
	v.set("tour/while looking")
	v.sees(1, row("tour/while looking"))
	v.look("history")

	v.click(hook("history-pause", ""))
	v.sees(1, hook("history-pause", "[aria-pressed=true]"))
	v.set("tour/while paused")
	v.reads("main", "1 newer")
	v.sees(0, row("tour/while paused"))
	v.click(hook("history-pause", ""))
	v.sees(1, row("tour/while paused"))

	revision := v.revisionOf(tourKey)
	v.fill(hook("history-since", ""), strconv.FormatUint(revision-1, 10))
	v.do("press Enter", chromedp.KeyEvent("\r"))
	v.sees(1, row(tourKey)+fmt.Sprintf("[data-revision='%d']", revision))
	v.fill(hook("history-since", ""), strconv.FormatUint(revision, 10))
	v.do("press Enter", chromedp.KeyEvent("\r"))
	v.sees(0, row(tourKey))
	v.sees(1, row("kinds/binary"))
}

func (v *tour) deadFollower() {
	v.show("overview")
	follower := v.followers()[0]
	card := hook("db-card", "[data-name="+follower.Name+"]")
	start := time.Now()
	follower.Kill9()
	v.sees(1, card+"[data-status=down]")
	v.soon(follower.Name, start)
	v.reads(card, "down since")
	v.sees(1, hook("health", "[data-level=warning]"))
	v.look("overview-down")

	start = time.Now()
	follower.Start()
	v.sees(1, card+"[data-status=up]")
	v.t.Logf("%s is shown as up %.2f s after its start", follower.Name, time.Since(start).Seconds())
}

func (v *tour) deadCache() {
	cache := v.cluster.Caches[2]
	start := time.Now()
	cache.Kill9()
	v.sees(1, hook("cache-card", "[data-name="+cache.Name+"][data-status=down]"))
	v.soon(cache.Name, start)
	cache.Start()
	v.sees(3, hook("cache-card", "[data-status=up]"))
}

// A hanging node does not even refuse a connection.
func (v *tour) hanging() {
	cache := v.cluster.Caches[0]
	card := hook("cache-card", "[data-name="+cache.Name+"]")
	start := time.Now()
	cache.Signal(syscall.SIGSTOP)
	v.sees(1, card+"[data-status=down]")
	v.soon(cache.Name, start)
	cache.Signal(syscall.SIGCONT)
	v.sees(1, card+"[data-status=up]")
}

// soon checks how long the page took to show that a node is dead.
func (v *tour) soon(name string, killed time.Time) {
	v.t.Helper()
	took := time.Since(killed)
	v.t.Logf("%s is shown as down after %.2f s", name, took.Seconds())
	if took > downWithin {
		v.t.Errorf("%s was shown as down only after %v; want %v at most", name, took, downWithin)
	}
}

func (v *tour) followers() []*clustertest.Process {
	v.t.Helper()
	leader := v.cluster.Leader()
	var list []*clustertest.Process
	for _, d := range v.cluster.DBs {
		if d != leader {
			list = append(list, d)
		}
	}
	return list
}

func (v *tour) transfer() {
	v.show("members")
	v.sees(3, hook("member-row", ""))
	v.look("members")
	next := v.followers()[1]
	v.click(hook("member-row", "[data-name="+next.Name+"] ") + hook("member-transfer", ""))
	v.reads(hook("confirm-text", ""), next.Name)
	v.look("members-confirm")
	v.click(hook("confirm-ok", ""))
	v.sees(1, hook("member-row", "[data-role=leader][data-name="+next.Name+"]"))
	v.sees(0, hook("confirm-text", ""))
	v.show("overview")
	v.leads(next)
}

// With one of three voters dead, the guard must not let a live one be removed.
func (v *tour) refusal() {
	v.show("members")
	followers := v.followers()
	dead, wanted := followers[0], followers[1]
	dead.Kill9()
	cl := clustertest.Client(v.t, v.cluster.Leader().URL())
	clustertest.Eventually(v.t, "the cluster misses "+dead.Name, func() error {
		members, err := cl.Members(clustertest.WithTimeout(v.t))
		if err != nil {
			return err
		}
		for _, m := range members.Members {
			if m.Name == dead.Name && m.Healthy {
				return fmt.Errorf("%s still counts as healthy", m.Name)
			}
		}
		return nil
	})
	v.click(hook("member-row", "[data-name="+wanted.Name+"] ") + hook("member-remove", ""))
	v.reads(hook("confirm-text", ""), wanted.Name)
	v.click(hook("confirm-ok", ""))
	v.reads(hook("member-refused", ""), "removing "+wanted.Name+" would leave 2 voters of which 1 can be reached", "no quorum")
	v.refused("DELETE", "/api/members/"+wanted.Name, http.StatusConflict)
	v.look("members-refused")
	v.click(hook("confirm-cancel", ""))
	v.sees(0, hook("member-refused", ""))
	if at := eval[string](v.page, "document.activeElement.dataset.testid ?? ''"); at != "member-remove" {
		v.t.Errorf("after the dialog the focus is at %q; want the button that opened it", at)
	}
	dead.Start()
	v.show("overview")
	v.sees(3, hook("db-card", "[data-status=up]"))
}

func (v *tour) lost() {
	v.sees(0, hook("connection-lost", ""))
	v.unreachable(true)
	start := time.Now()
	if code, _ := v.admin.Terminate(); code != 0 {
		v.t.Errorf("the admin ended with code %d", code)
	}
	v.sees(1, hook("connection-lost", ""))
	v.t.Logf("the page says that the connection is lost %.2f s after the admin was told to stop", time.Since(start).Seconds())
	v.look("lost")

	start = time.Now()
	v.admin.Start()
	v.sees(0, hook("connection-lost", ""))
	v.t.Logf("the page is connected again %.2f s after the admin's start", time.Since(start).Seconds())
	v.unreachable(false)
	v.sees(3, hook("db-card", "[data-status=up]"))
}

func (v *tour) theme() {
	v.click(hook("theme-toggle", ""))
	v.sees(1, "html.dark")
	v.do("load the page again", chromedp.Reload())
	v.sees(1, "html.dark")
	v.click(hook("theme-toggle", ""))
	v.sees(0, "html.dark")
}

// The page tells the truth while a cluster goes down node by node, and recovers by itself when
// it comes up again: nobody reloads anything.
func TestBrowser_Outage(t *testing.T) {
	chromium(t)
	cluster := clustertest.NewProcesses(t, bin, 3, 1)
	cluster.StartAll()
	admin := cluster.NewAdmin()
	admin.Start()
	admin.WaitReady()
	v := &tour{page: openPage(t, admin.URL()), cluster: cluster, admin: admin}
	v.set("before the outage")
	v.show("overview")
	v.reads(hook("health", ""), "All is well: 3 database nodes led by", "of which one may fail, and 1 cache node.")
	v.unanswered(true)

	followers := v.followers()
	followers[0].Kill9()
	v.reads(hook("health", "[data-level=warning]"), followers[0].Name+" is down, of 3 voters. Everything works; the loss of one more would stop puts.")
	v.show("members")
	v.reads("main", "3 voters, of which 2 can be counted on: none of them may fail.")
	v.sees(0, hook("member-row", "[data-name="+followers[0].Name+"] ")+hook("member-transfer", ""))
	v.sees(1, hook("member-row", "[data-name="+followers[1].Name+"] ")+hook("member-transfer", ":enabled"))
	v.look("outage-members-one-down")

	followers[1].Kill9()
	v.reads(hook("members-hindrance", ""), "There is no leader")
	v.sees(0, hook("member-remove", ":enabled"))
	v.look("outage-members-no-quorum")
	v.show("history")
	v.reads(hook("history-status", ""), "Not live: there is no leader")
	v.show("keys")
	v.reads(hook("keys-problem", ""), "The page keeps trying.")
	v.look("outage-keys-no-quorum")
	v.show("overview")
	v.reads(hook("health", "[data-level=critical]"), "No quorum: 1 of 3 voters answers, and 2 are needed.")
	v.look("outage-no-quorum")

	last := v.cluster.DBs[0]
	for _, d := range v.cluster.DBs {
		if d != followers[0] && d != followers[1] {
			last = d
		}
	}
	last.Kill9()
	v.reads(hook("health", "[data-level=critical]"), "No database node with a vote answers")
	v.reads(".health", "No word from the database nodes since")
	v.reads(hook("caches-up", ""), "1 of 1")
	v.look("outage-nobody")
	v.show("history")
	v.reads(hook("history-status", ""), "Not live: no database node answers the admin.")
	v.look("outage-history-nobody")
	v.show("keys")
	v.reads(hook("keys-problem", ""), "The page keeps trying.")

	for _, d := range v.cluster.DBs {
		d.Start()
	}
	v.sees(1, hook("keys-row", "[data-key='before the outage']"))
	v.sees(0, hook("keys-problem", ""))
	v.show("history")
	v.reads(hook("history-status", ""), "Live.")
	v.show("overview")
	v.sees(1, hook("health", "[data-level=ok]"))
	v.unanswered(false)
	v.clean("the outage")
}
