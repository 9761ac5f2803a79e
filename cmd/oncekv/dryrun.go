package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// dryRun takes puts, sets nothing, and shows what each put would do now. It is safe for
// concurrent use.
type dryRun struct {
	client *client.Client

	mu  sync.Mutex
	out io.Writer // nil for none
}

// Put answers as a real put would, including client.ConflictError.
func (d *dryRun) Put(ctx context.Context, key string, body io.ReadSeeker, opts client.PutOptions) (api.PutAnswer, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, body)
	if err != nil {
		return api.PutAnswer{}, err
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	is, err := d.client.Stat(ctx, key, client.GetOptions{})
	answer := api.PutAnswer{Revision: is.Revision, SHA256: is.SHA256, Size: is.Size}
	how := unchanged
	switch {
	case errors.Is(err, api.ErrNotFound):
		how, err, answer = created, nil, api.PutAnswer{SHA256: digest, Size: size, Created: true}
	case err == nil && is.SHA256 != digest:
		how, err = conflict, &client.ConflictError{Revision: is.Revision, SHA256: is.SHA256, Size: is.Size, Status: 409}
	case err != nil:
		return answer, err
	}
	return answer, errors.Join(err, d.say(how, key, size, opts.ContentType))
}

func (d *dryRun) say(how outcome, key string, size int64, contentType string) error {
	if d.out == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := fmt.Fprintf(d.out, "%s %s: %d bytes, %s\n", how, shown(key), size, contentType)
	return err
}
