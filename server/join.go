package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/raftnode"
)

const (
	// joinPause is the pause between two attempts to join.
	joinPause = 500 * time.Millisecond
	// joinTime bounds one attempt: the cluster may be busy with another change.
	joinTime = 10 * time.Second
)

// joiner asks a running cluster to add a node.
type joiner struct {
	urls     []string // possible database nodes of the cluster
	learner  bool
	logger   *slog.Logger
	lastTold string
}

// run retries while nobody answers, or while the node that answers may yet be replaced by a
// database node. It gives up when the cluster refuses, or when no URL can ever lead to a
// database node.
func (j *joiner) run(ctx context.Context, self raftnode.Member) ([]raftnode.Member, error) {
	hc := nodehttp.NewClient(nodehttp.Options{})
	defer hc.CloseIdleConnections()
	for {
		databases, waiting, err := j.look(ctx, hc)
		if err != nil {
			return nil, err
		}
		if len(databases) > 0 {
			members, err := j.ask(ctx, hc, databases, self)
			switch {
			case err == nil:
				return members, nil
			case errors.Is(err, api.ErrRefused), errors.Is(err, api.ErrInvalid):
				return nil, fmt.Errorf("join the cluster of %s: %w", strings.Join(databases, ", "), err)
			}
			waiting = append(waiting, err.Error())
		}
		j.tell(strings.Join(waiting, "; "))
		t := time.NewTimer(joinPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

// look finds out who answers at the URLs, and drops those that will never lead to a
// database node. waiting says what is wrong with the others.
func (j *joiner) look(ctx context.Context, hc *http.Client) (databases, waiting []string, err error) {
	var staying, wrong []string
	for _, url := range j.urls {
		who := nodehttp.Identify(ctx, hc, url)
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		problem := who.NoDatabase(url)
		switch who.Kind {
		case nodehttp.PeerPort, nodehttp.Cache, nodehttp.Admin:
			wrong = append(wrong, problem)
			continue
		case nodehttp.Database:
			databases = append(databases, url)
		default:
			waiting = append(waiting, problem)
		}
		staying = append(staying, url)
	}
	if len(staying) == 0 {
		return nil, nil, &SettingError{"join", errors.New(strings.Join(wrong, "; "))}
	}
	for _, w := range wrong {
		j.logger.Warn("--join names a node that cannot be joined; continuing with the others", "err", w)
	}
	j.urls = staying
	return databases, waiting, nil
}

// tell logs what the node waits for, if that has changed.
func (j *joiner) tell(why string) {
	if why != j.lastTold {
		j.lastTold = why
		j.logger.Info("waiting for a cluster to join", "at", j.urls, "err", why)
	}
}

// ask asks these database nodes once to add the node, and returns the members.
func (j *joiner) ask(ctx context.Context, hc *http.Client, databases []string, self raftnode.Member) ([]raftnode.Member, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	c, err := client.New(client.Config{Endpoints: databases, HTTPClient: hc, SingleRequests: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	role := api.RoleVoter
	if j.learner {
		role = api.RoleLearner
	}
	add := api.AddMember{ID: self.ID.String(), Name: self.Name, PeerURL: self.PeerURL, ClientURL: self.ClientURL, Role: role, Level: self.Level}
	if _, _, err := c.AddMember(ctx, add); err != nil {
		return nil, err
	}
	list, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	var members []raftnode.Member
	for _, m := range list.Members {
		id, err := raftnode.ParseID(m.ID)
		if err != nil {
			return nil, err
		}
		members = append(members, raftnode.Member{ID: id, Name: m.Name, PeerURL: m.PeerURL, ClientURL: m.ClientURL, Learner: m.Role == api.RoleLearner})
	}
	return members, nil
}
