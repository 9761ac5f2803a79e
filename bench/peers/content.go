package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
)

// content is the bytes of a value, generated while it is read. No two contents are equal, and
// no block occurs twice in one, so that no store can share blocks between values; and
// generating it takes little time.
type content struct {
	seed  uint64
	size  int64
	noise []byte // shared, never changes

	at    int64
	block [contentBlock]byte // the block that contains at, unless at is its beginning
}

// contentBlock is the size of the blocks. Each begins with its own stamp: the seed and its
// offset.
const contentBlock = 4 << 10

// newNoise returns what follows the stamps. It does not compress.
func newNoise() []byte {
	noise := make([]byte, 64*contentBlock)
	rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	return noise
}

// again returns the same content from its beginning.
func (c *content) again() *content { return &content{seed: c.seed, size: c.size, noise: c.noise} }

func (c *content) body() (io.ReadCloser, error) { return io.NopCloser(c.again()), nil }

// Read generates the next bytes.
func (c *content) Read(p []byte) (n int, err error) {
	for n < len(p) && c.at < c.size {
		from := c.at % contentBlock
		if from == 0 {
			c.make()
		}
		copied := copy(p[n:], c.block[from:min(contentBlock, from+c.size-c.at)])
		n, c.at = n+copied, c.at+int64(copied)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *content) make() {
	number := uint64(c.at / contentBlock)
	copy(c.block[:], c.noise[number%uint64(len(c.noise)/contentBlock)*contentBlock:])
	binary.BigEndian.PutUint64(c.block[:], scatter(c.seed))
	binary.BigEndian.PutUint64(c.block[8:], scatter(number))
}

// readBytes is how much is read at a time.
const readBytes = 1 << 20

// equals compares what is read with the content.
func (c *content) equals(r io.Reader) error {
	want, got := make([]byte, readBytes), make([]byte, readBytes)
	for from := c.again(); ; {
		n, err := io.ReadFull(from, want)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
			return err
		}
		m, err := io.ReadFull(r, got)
		switch {
		case err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF:
			return err
		case !bytes.Equal(want[:n], got[:m]):
			return fmt.Errorf("bytes up to %d of %d are not those that were put", from.at, c.size)
		case n < readBytes:
			return nil
		}
	}
}

// plainWriter discards what it is given. io.Discard would read in pieces of 8 KiB; plainWriter
// takes large pieces.
type plainWriter struct{}

func (plainWriter) Write(p []byte) (int, error) { return len(p), nil }

// drained reads an answer to its end, so that its connection can be reused.
func drained(resp *http.Response) error {
	_, err := io.CopyBuffer(plainWriter{}, resp.Body, make([]byte, 4<<10))
	return errors.Join(err, resp.Body.Close())
}
