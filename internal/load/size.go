package load

import (
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
)

// Size is how many bytes keys or values have: a constant, or drawn from a distribution. It is
// a flag.
type Size struct {
	Min, Max int64
	Skewed   bool // small sizes are likelier: in proportion to 1/size
	text     string
}

// Fixed is always n bytes.
func Fixed(n int64) Size { return Size{Min: n, Max: n} }

// Set parses a size such as 256 or 4KiB, a uniform range such as 64-4096, or zipf:64-4096, in
// which smaller sizes are more likely.
func (s *Size) Set(text string) error {
	span, skewed := strings.CutPrefix(text, "zipf:")
	low, high, ranged := strings.Cut(span, "-")
	if !ranged {
		high = low
	}
	from, err := humanize.ParseBytes(low)
	to, err2 := humanize.ParseBytes(high)
	if err != nil || err2 != nil || from > to || to > math.MaxInt64 || skewed && (!ranged || from == 0) {
		return fmt.Errorf("%q is not a size; write it like 256, 4KiB, 64-4096 or zipf:64-4096", text)
	}
	*s = Size{Min: int64(from), Max: int64(to), Skewed: skewed, text: text}
	return nil
}

// String writes the size so that Set reads the same again.
func (s *Size) String() string {
	switch {
	case s.text != "":
		return s.text
	case s.Min == s.Max:
		return fmt.Sprint(s.Min)
	case s.Skewed:
		return fmt.Sprintf("zipf:%d-%d", s.Min, s.Max)
	}
	return fmt.Sprintf("%d-%d", s.Min, s.Max)
}

// Type names the kind of value in usage texts.
func (s *Size) Type() string { return "size" }

// at returns the size for 64 random bits.
func (s *Size) at(bits uint64) int64 {
	if s.Min == s.Max {
		return s.Min
	}
	u := float64(bits>>11) / (1 << 53)
	if s.Skewed { // the inverse of the distribution's integral
		return min(int64(float64(s.Min)*math.Pow(float64(s.Max+1)/float64(s.Min), u)), s.Max)
	}
	return s.Min + int64(u*float64(s.Max-s.Min+1))
}
