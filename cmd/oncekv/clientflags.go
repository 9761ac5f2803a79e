package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// clientFlags are the flags of commands that talk to a cluster.
type clientFlags struct {
	endpoints []string
	timeout   time.Duration
	wait      bool

	app     *app
	forever bool // timeout does not end the command
}

func (c *clientFlags) register(a *app, flags *pflag.FlagSet, timeout time.Duration) {
	c.app = a
	flags.StringSliceVar(&c.endpoints, "endpoints", []string{"http://127.0.0.1:11000"}, "nodes to ask, by URL or host:port; if one fails, the next is tried")
	flags.DurationVar(&c.timeout, "timeout", timeout, "how long to keep trying each request")
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

// sayOnce returns a function that tells people, once, that a request is stuck.
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

// writeJSON writes v on one line. All of --json goes through it.
func writeJSON(w io.Writer, v any) error {
	line, err := lineOfJSON(v)
	if err == nil {
		_, err = w.Write(line)
	}
	return err
}

// lineOfJSON encodes v with a line end, and escapes everything that a terminal should not
// show; only strings can contain that.
func lineOfJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	if bytes.IndexFunc(text, unprintable) < 0 {
		return b.Bytes(), nil
	}
	escaped := make([]byte, 0, 2*len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !unprintable(r):
			escaped = append(escaped, text[:n]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
		text = text[n:]
	}
	return append(escaped, '\n'), nil
}

// checkKey refuses a key that can never be set.
func checkKey(key string) error {
	if err := kvstore.Key(key).Validate(); err != nil {
		return &usageError{err}
	}
	return nil
}
