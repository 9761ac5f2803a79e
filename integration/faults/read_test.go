package faults

import (
	"context"
	"errors"
	"io"

	"github.com/Focinfi/oncekv/client"
)

// read gets a value with the Go client.
func read(ctx context.Context, cl *client.Client, key string) ([]byte, client.Record, error) {
	o, err := cl.Get(ctx, key, client.GetOptions{})
	if err != nil {
		return nil, client.Record{}, err
	}
	b, err := io.ReadAll(o.Body)
	return b, o.Record, errors.Join(err, o.Body.Close())
}

// isDefinite tells an error that means that a put has not happened and will not.
func isDefinite(err error) bool {
	return errors.Is(err, client.ErrDiskReserve) || errors.Is(err, client.ErrUnavailable) || errors.Is(err, client.ErrOverloaded)
}

func isAbsent(err error) bool { return errors.Is(err, client.ErrNotFound) }
