package faults

import (
	"context"
	"errors"
	"io"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// read gets a value with the Go client.
func read(ctx context.Context, cl *client.Client, key string) ([]byte, api.Record, error) {
	o, err := cl.Get(ctx, key, client.GetOptions{})
	if err != nil {
		return nil, api.Record{}, err
	}
	b, err := io.ReadAll(o.Body)
	return b, o.Record, errors.Join(err, o.Body.Close())
}

// isDefinite reports whether an error means that a put has not happened and will not.
func isDefinite(err error) bool {
	return errors.Is(err, api.ErrDiskReserve) || errors.Is(err, api.ErrUnavailable) || errors.Is(err, api.ErrOverloaded)
}

func isAbsent(err error) bool { return errors.Is(err, api.ErrNotFound) }
