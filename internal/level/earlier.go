package level

import "fmt"

// EarlierError says that data was written before the first release, in a format that
// nobody reads any more. It leaves the data as it is.
type EarlierError struct {
	What string // such as the path of a file
}

// Error says what to do.
func (e *EarlierError) Error() string {
	return fmt.Sprintf("%s was written by a version of oncekv from before the first release, which this program does not read: serve it with the program that wrote it, and move its keys, see docs/operations.md; nothing was changed", e.What)
}
