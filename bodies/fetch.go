package bodies

import "context"

// FetchMax is how many bodies one Fetch asks for at most.
const FetchMax = 64

// Fetch asks another node for bodies, and calls each for every one that it has, with
// bytes that have the digest. An error of each ends it.
type Fetch func(ctx context.Context, refs []Ref, each func(Body) error) error
