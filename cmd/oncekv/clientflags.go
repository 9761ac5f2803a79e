package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// clientFlags are those of commands that talk to a cluster.
type clientFlags struct {
	endpoints []string
	timeout   time.Duration
	wait      bool

	app     *app
	forever bool // the command goes on after timeout
}

func (c *clientFlags) register(a *app, flags *pflag.FlagSet, timeout time.Duration) {
	c.app = a
	flags.StringSliceVar(&c.endpoints, "endpoints", []string{"http://127.0.0.1:11000"}, "nodes to ask, by URL or host:port; when one fails, the next is tried")
	flags.DurationVar(&c.timeout, "timeout", timeout, "how long to keep trying one request")
	flags.BoolVar(&c.wait, "wait", false, "keep trying even if no node listens at any endpoint")
}

func (c *clientFlags) client() (*client.Client, error) {
	addSchemes(c.endpoints)
	if err := checkEndpoints(c.endpoints); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, usageErrorf("--timeout must be above zero, such as 30s")
	}
	cl, err := client.New(client.Config{Endpoints: c.endpoints, RetryTimeout: c.timeout, FailRefused: !c.wait, OnSilence: c.sayOnce()})
	if err != nil {
		return nil, &usageError{err}
	}
	return cl, nil
}

// sayOnce tells people, the first time that it is called, that nothing moves.
func (c *clientFlags) sayOnce() func(client.Silence) {
	var once sync.Once
	return func(s client.Silence) {
		once.Do(func() { fmt.Fprintf(c.app.stderr, "oncekv: %s\n", legible(c.sentence(s))) })
	}
}

func (c *clientFlags) sentence(s client.Silence) string {
	until := "; trying until " + s.Until.Format(time.TimeOnly) + ", or Ctrl-C"
	if c.forever {
		until = "; trying until Ctrl-C"
	}
	var status *client.StatusError
	switch {
	case s.Last == nil:
		return "no node answers at " + strings.Join(s.Endpoints, ", ") + " yet" + until
	case errors.As(s.Last, &status):
		return s.Op + ": " + s.Last.Error() + until
	}
	return fmt.Sprintf("no node answers at %s (%v)%s", strings.Join(s.Endpoints, ", "), s.Last.Err, until)
}

func (a *app) jsonFlag(flags *pflag.FlagSet) {
	flags.BoolVar(&a.json, "json", false, "write JSON")
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// checkKey refuses a key that can never be set.
func checkKey(key string) error {
	if err := kvstore.Key(key).Validate(); err != nil {
		return &usageError{err}
	}
	return nil
}
