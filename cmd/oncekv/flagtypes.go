package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/dustin/go-humanize"

	"github.com/Focinfi/oncekv/raftnode"
)

// byteSize is a flag for a number of bytes, written 1048576, 1MiB or 1MB.
type byteSize int64

func (b *byteSize) Set(s string) error {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return fmt.Errorf("%q is not a size; write it like 1048576, 64MiB or 1GB", s)
	}
	*b = byteSize(n)
	return nil
}

// String writes the size so that Set reads the same again.
func (b *byteSize) String() string {
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	n, unit := int64(*b), 0
	for n != 0 && n%1024 == 0 && unit < len(units)-1 {
		n, unit = n/1024, unit+1
	}
	return strconv.FormatInt(n, 10) + units[unit]
}

// Type names the kind of value in usage texts.
func (b *byteSize) Type() string { return "size" }

// humanBytes formats a number of bytes for people.
func humanBytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// forceWord is a flag that is given alone, like a bool, or with a word that was not used
// before. Empty means off.
type forceWord string

// Set takes booleans and words.
func (w *forceWord) Set(s string) error {
	if on, err := strconv.ParseBool(s); err == nil {
		*w = ""
		if on {
			*w = raftnode.ForceOnce
		}
		return nil
	}
	if err := raftnode.CheckForceWord(s); err != nil {
		return err
	}
	*w = forceWord(s)
	return nil
}

// String writes the word so that Set reads the same again.
func (w *forceWord) String() string {
	if *w == "" {
		return "false"
	}
	return string(*w)
}

// Type names the kind of value in usage texts.
func (w *forceWord) Type() string { return "word" }
