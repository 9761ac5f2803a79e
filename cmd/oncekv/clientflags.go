package main

import (
	"encoding/json"
	"io"
	"time"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// clientFlags are those of commands that talk to a cluster.
type clientFlags struct {
	endpoints []string
	timeout   time.Duration
}

func (c *clientFlags) register(flags *pflag.FlagSet, timeout time.Duration) {
	flags.StringSliceVar(&c.endpoints, "endpoints", []string{"http://127.0.0.1:11000"}, "URLs of nodes; the next one is tried when one fails")
	flags.DurationVar(&c.timeout, "timeout", timeout, "how long to keep trying one request")
}

func (c *clientFlags) client() (*client.Client, error) {
	if err := checkEndpoints(c.endpoints); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		return nil, usageErrorf("--timeout must be above zero, such as 30s")
	}
	cl, err := client.New(client.Config{Endpoints: c.endpoints, RetryTimeout: c.timeout})
	if err != nil {
		return nil, &usageError{err}
	}
	return cl, nil
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
