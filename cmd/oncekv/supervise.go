package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// closeTimeout is short enough for Procfile runners, which kill after 5 s.
const closeTimeout = 3500 * time.Millisecond

// node is a running database node, cache node or admin.
type node interface {
	URL() string
	Done() <-chan struct{} // closed when it has stopped
	Err() error            // why it stopped by itself
	Close(ctx context.Context) error
}

// namedNode is a node and its name in messages.
type namedNode struct {
	name string
	node
}

// tellPlaces says where a started node listens, and its other places: in a sentence on a
// terminal, else in the log.
func (a *app) tellPlaces(logger *slog.Logger, name string, places ...slog.Attr) {
	places = slices.DeleteFunc(places, func(p slog.Attr) bool { return p.Value.String() == "" }) // not known yet
	if !isTerminal(a.stderr) {
		logger.LogAttrs(context.Background(), slog.LevelInfo, "listening", append([]slog.Attr{slog.String("who", name)}, places...)...)
		return
	}
	var parts []string
	for _, p := range places {
		parts = append(parts, p.Key+" at "+shown(p.Value.String()))
	}
	fmt.Fprintf(a.stderr, "%s: %s\n", name, strings.Join(parts, ", "))
}

// supervise waits until ctx ends or a node stops by itself, then closes all nodes. Only a node
// that stopped by itself is an error.
func (a *app) supervise(ctx context.Context, nodes ...namedNode) error {
	err := firstStopped(ctx, nodes)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, closeAll(closing, nodes))
}

// firstStopped returns nil if ctx ends first.
func firstStopped(ctx context.Context, nodes []namedNode) error {
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan namedNode, len(nodes))
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for _, n := range nodes {
		waiting.Go(func() {
			select {
			case <-n.Done():
				stopped <- n
			case <-ended.Done():
			}
		})
	}
	select {
	case n := <-stopped:
		return n.stopped()
	case <-ctx.Done():
		return nil
	}
}

// stopped returns the sentence about a node that stopped by itself.
func (n namedNode) stopped() error {
	if err := n.Err(); err != nil {
		return fmt.Errorf("%s stopped: %w", n.name, err)
	}
	return fmt.Errorf("%s stopped without giving a reason", n.name)
}

func closeAll(ctx context.Context, nodes []namedNode) error {
	errs := make([]error, len(nodes))
	var closing sync.WaitGroup
	for i, n := range nodes {
		closing.Go(func() {
			select {
			case <-n.Done(): // said why already
				n.Close(ctx)
			default:
				if err := n.Close(ctx); err != nil {
					errs[i] = fmt.Errorf("close %s: %w", n.name, err)
				}
			}
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}
