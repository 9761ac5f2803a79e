package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// The announcement waits for all nodes within limits: a short time for the last few, or if a
// node needs help, and otherwise less than anybody would wait.
const (
	announcePoll     = 100 * time.Millisecond
	announceLast     = 5 * time.Second
	announceWithout  = 15 * time.Second
	readyAskTimeout  = time.Second
	readyAnswerBytes = 64 << 10
)

// unready is a node that is not ready, and why.
type unready struct{ name, why string }

// announce says where everything listens once all nodes are ready, or without slow ones; then
// it also says when those become ready.
func (s *devSystem) announce(ctx context.Context, w io.Writer) {
	missing := s.untilAnnounced(ctx)
	if ctx.Err() != nil {
		return
	}
	s.writeBanner(w, missing)
	tick := time.NewTicker(devLookEvery)
	defer tick.Stop()
	for len(missing) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := s.notReady(ctx)
		for _, m := range missing {
			if ctx.Err() == nil && !named(now, m.name) {
				fmt.Fprintf(w, "%s is ready\n", m.name)
			}
		}
		missing = now
	}
}

func named(list []unready, name string) bool {
	for _, u := range list {
		if u.name == name {
			return true
		}
	}
	return false
}

// untilAnnounced waits until the announcement is due, and returns the nodes that are not ready
// then.
func (s *devSystem) untilAnnounced(ctx context.Context) []unready {
	tick := time.NewTicker(announcePoll)
	defer tick.Stop()
	var most time.Time // since then a majority of the database nodes is ready, or one has a problem
	began := time.Now()
	for {
		missing := s.notReady(ctx)
		databases := 0
		for _, u := range missing {
			if strings.HasPrefix(u.name, databaseNode) {
				databases++
			}
		}
		if databases > devNodes/2 && !s.troubled() {
			most = time.Time{}
		} else if most.IsZero() {
			most = time.Now()
		}
		if len(missing) == 0 || !most.IsZero() && time.Since(most) > announceLast || time.Since(began) > announceWithout {
			return missing
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// troubled reports whether a database node has a problem.
func (s *devSystem) troubled() bool {
	return slices.ContainsFunc(s.members, func(m *devMember) bool { return m.trouble() != "" })
}

// notReady asks all nodes at once and returns those that are not ready.
func (s *devSystem) notReady(ctx context.Context) []unready {
	type asked struct{ name, url, why string }
	var all []asked
	for _, m := range s.members {
		all = append(all, asked{databaseNode + m.name, m.url, m.trouble()})
	}
	for _, n := range s.tier {
		all = append(all, asked{n.name, n.URL(), ""})
	}
	var asking sync.WaitGroup
	for i := range all {
		asking.Go(func() {
			if all[i].why == "" {
				all[i].why = notReady(ctx, s.asks, all[i].url)
			}
		})
	}
	asking.Wait()
	var list []unready
	for _, a := range all {
		if a.why != "" {
			list = append(list, unready{a.name, a.why})
		}
	}
	return list
}

// notReady asks a node whether it is ready and returns why not, "" if it is.
func notReady(ctx context.Context, hc *http.Client, url string) string {
	ctx, cancel := context.WithTimeout(ctx, readyAskTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := hc.Do(req)
	if err != nil {
		return "it does not answer"
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return ""
	}
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, readyAnswerBytes)).Decode(&problem) != nil || problem.Detail == "" {
		return "it answers " + resp.Status
	}
	return problem.Detail
}

// writeBanner says where everything listens, who is not ready, and what to try.
func (s *devSystem) writeBanner(w io.Writer, missing []unready) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, m := range s.members {
		fmt.Fprintf(t, "%s\t%s\tpeers %s\n", databaseNode+m.name, m.url, m.peers)
	}
	for _, n := range s.tier {
		fmt.Fprintf(t, "%s\t%s\n", n.name, n.URL())
	}
	t.Flush()
	for _, u := range missing {
		fmt.Fprintf(w, "not ready yet: %s (%s)\n", u.name, u.why)
	}
	db, c1, c2, admin := s.members[0].url, s.tier[0].URL(), s.tier[1].URL(), s.tier[len(s.tier)-1].URL()
	fmt.Fprintf(w, `data in %s, Ctrl-C to stop

In a second terminal, set a key through a database node, then read it from caches:

  curl -XPOST %s/key -d '{"key":"foo","value":"bar"}'
  curl -XGET %s/key/foo
  curl -XGET %s/key/foo

The admin page: %s
`, s.data.path, db, c1, c2, admin)
}
