package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

func startCeiling(ctx context.Context, at place) (*system, error) {
	path, err := at.ceiling(ctx)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &system{name: "ceiling"}
	if err := s.run(at.dir, "ceiling", path, "-listen", addr, "-value-bytes", strconv.Itoa(valueBytes)); err != nil {
		return s, err
	}
	s.url = "http://" + addr
	s.tasks = map[string]task{"http-put": {open: rawPuts(addr)}, "http-get": {open: rawGets(addr, http.StatusOK)}}
	return s, eventually(ctx, "the ceiling answers", s.nodes, func(ctx context.Context) error { return answers(ctx, s.url+"/key/k") })
}

func (at place) ceiling(ctx context.Context) (string, error) {
	return program{pkg: "github.com/Focinfi/oncekv/bench/peers/ceiling"}.build(ctx, at.bin, "ceiling")
}

// answers returns nil if a GET is answered with 200.
func answers(ctx context.Context, url string) error {
	_, err := fetch(ctx, url)
	return err
}

// fetch returns the body of a GET that is answered with 200.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// rawPuts puts new keys, with a connection for each worker.
func rawPuts(addr string) opener {
	return func(ctx context.Context, s session, worker int) (operation, func(), error) {
		c, err := dialRaw(addr)
		if err != nil {
			return nil, nil, err
		}
		key := s.fresh(worker)
		return c.operation(http.MethodPut, key, s.value, http.StatusCreated), c.close, nil
	}
}

// rawGets reads keys that are set or, for want 404, keys that are not.
func rawGets(addr string, want int) opener {
	return func(ctx context.Context, s session, worker int) (operation, func(), error) {
		c, err := dialRaw(addr)
		if err != nil {
			return nil, nil, err
		}
		key := s.reads()
		if want == http.StatusNotFound {
			key = s.fresh(worker)
		}
		return c.operation(http.MethodGet, key, nil, want), c.close, nil
	}
}

func (c *rawConn) operation(method string, key func() string, body []byte, want int) operation {
	limited := false
	return func(ctx context.Context) (int, error) {
		if !limited { // once: the context is the load's
			c.limit(ctx)
			limited = true
		}
		status, err := c.do(method, "/key/"+key(), body)
		if err == nil && status != want {
			err = fmt.Errorf("%s was answered with status %d, not %d", method, status, want)
		}
		return 1, err
	}
}
