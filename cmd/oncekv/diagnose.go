package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/client"
)

// diagnoseTimeout bounds the diagnosis after a failed request. Without a quorum a node takes
// some seconds to say so.
const diagnoseTimeout = 6 * time.Second

// diagnose shows how the cluster looks after a request failed at every endpoint.
func diagnose(ctx context.Context, cmd *cobra.Command, stderr io.Writer, err error) {
	var nobody *client.RequestError
	if !errors.As(err, &nobody) || ctx.Err() != nil {
		return
	}
	endpoints, flagErr := cmd.Flags().GetStringSlice("endpoints")
	if flagErr != nil {
		return
	}
	nobodyAnswers := fmt.Sprintf("No endpoint answers (%s). Is a node running there? --wait waits for one; --endpoints or ONCEKV_ENDPOINTS names others.", legible(strings.Join(endpoints, ", ")))
	if nobody.Cause == client.ErrNobodyListens {
		fmt.Fprintln(stderr, nobodyAnswers)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	views := make([]string, len(endpoints))
	var asked sync.WaitGroup
	for i, endpoint := range endpoints {
		asked.Go(func() { views[i] = view(ctx, endpoint) })
	}
	asked.Wait()
	answered := false
	for _, v := range views {
		if v != "" {
			answered = true
			fmt.Fprintln(stderr, legible(v))
		}
	}
	if !answered {
		fmt.Fprintln(stderr, nobodyAnswers)
	}
}

// view returns how one endpoint sees the cluster; "" if it does not answer.
func view(ctx context.Context, endpoint string) string {
	cl, err := client.New(client.Config{Endpoints: []string{endpoint}, FailRefused: true})
	if err != nil {
		return ""
	}
	if !isUp(ctx, cl) {
		return ""
	}
	members, err := cl.Members(ctx)
	if err != nil {
		return fmt.Sprintf("%s is up, but does not report the state of the cluster.", endpoint)
	}
	var away []string
	for _, m := range members.Members {
		if !m.Healthy {
			away = append(away, fmt.Sprintf("%s (%s)", m.Name, m.ClientURL))
		}
	}
	leader := "the leader is " + members.Leader
	if members.Leader == "" {
		leader = "there is no leader"
	}
	if len(away) == 0 {
		return fmt.Sprintf("%s says: %s; all %d members are reachable.", endpoint, leader, len(members.Members))
	}
	return fmt.Sprintf("%s says: %s; %d of %d members unreachable: %s.", endpoint, leader, len(away), len(members.Members), strings.Join(away, ", "))
}

func isUp(ctx context.Context, cl *client.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return cl.Ping(ctx) == nil
}
