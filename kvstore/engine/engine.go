package engine

// Bucket is one of the ordered key spaces of an Engine.
type Bucket uint8

// The buckets of a store; FORMATS.md says what is in each.
const (
	BucketState       Bucket = iota // positions, by name
	BucketRecords                   // history and staging: revision → record
	BucketChunks                    // history and staging: upload id and chunk number → chunk
	BucketUploads                   // history: upload id → open upload
	BucketCheckpoints               // history: revision → what history is there
	bucketCount
)

// bucketNames are the names on disk.
var bucketNames = [bucketCount]string{"state", "records", "chunks", "uploads", "checkpoints"}

// String returns the name of the bucket on disk.
func (b Bucket) String() string {
	if b < bucketCount {
		return bucketNames[b]
	}
	return "unknown"
}

// Engine is a small transactional store of ordered buckets: many readers, one
// writer at a time. It is safe for concurrent use.
type Engine interface {
	// View calls fn with a consistent read-only snapshot. Bytes seen in fn are valid only
	// until it returns. fn must not wait: an open snapshot can hold up every other caller.
	View(fn func(Tx) error) error
	// Update calls fn with a read-write transaction. When it returns nil all of it is durable.
	// After an error the engine is dead: View and Update return that error from then on, since
	// a write that failed once cannot be trusted to fail twice.
	Update(fn func(Tx) error) error
	// Size returns the bytes the engine occupies on disk.
	Size() int64
	// Close releases the engine; later calls return ErrClosed. It waits for
	// running transactions.
	Close() error
}

// Tx is one transaction. It belongs to the goroutine that runs fn.
type Tx interface {
	// Get returns the value of key, nil when there is none.
	Get(b Bucket, key []byte) []byte
	// Seek returns the first pair at or after from, nil when there is none.
	Seek(b Bucket, from []byte) (key, value []byte)
	// Ascend calls fn for each pair from the first key at or after from, in
	// byte order, until fn returns false. fn must not write.
	Ascend(b Bucket, from []byte, fn func(k, v []byte) (more bool))
	// ReadAhead is a hint that what lies behind value, seen in this transaction, is wanted
	// soon, in a bucket that was filled in order.
	ReadAhead(value []byte)
	// Put sets key. key is copied; value must not change until Update returns.
	Put(b Bucket, key, value []byte) error
	// Delete removes key, if it is there.
	Delete(b Bucket, key []byte) error
	// Where tells in which file and at which offset value, seen in this
	// transaction, lies; the offset is -1 when not known.
	Where(value []byte) (file string, offset int64)
}
