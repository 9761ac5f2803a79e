package httpapi

import (
	"math"
	"net/http"
	"strconv"
	"strings"
)

// rangesMax is how many ranges of one request are answered; a request with
// more gets the whole value, as RFC 9110 (14.2) allows.
const rangesMax = 32

// withUsableRange returns a request whose Range header http.ServeContent takes for
// what RFC 9110 (14) says: it has none where the header is to be ignored, because it
// is malformed, of another unit or of another method than GET, or because a value of
// no bytes has no part; and otherwise one with plain positions inside of the value,
// or one that no value satisfies.
func withUsableRange(r *http.Request, size int64) *http.Request {
	lines := r.Header["Range"]
	if len(lines) == 0 {
		return r
	}
	usable := r.WithContext(r.Context())
	usable.Header = r.Header.Clone()
	usable.Header.Del("Range")
	if r.Method != http.MethodGet || len(lines) > 1 || size == 0 {
		return usable
	}
	if ranges, ok := parseRanges(lines[0], size); ok {
		usable.Header.Set("Range", ranges.header(size))
	}
	return usable
}

// byteRange is a part of a value, both ends included.
type byteRange struct{ first, last int64 }

type byteRanges []byteRange

// header is the Range header that asks for these, or for what is behind a value of
// this size if there are none.
func (b byteRanges) header(size int64) string {
	if len(b) == 0 {
		return "bytes=" + strconv.FormatInt(size, 10) + "-"
	}
	text := []byte("bytes=")
	for i, part := range b {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, part.first, 10)
		text = strconv.AppendInt(append(text, '-'), part.last, 10)
	}
	return string(text)
}

// parseRanges reads a Range header about a value of at least one byte. It returns
// those of its ranges that the value satisfies; ok is false for a header that is to
// be ignored.
func parseRanges(header string, size int64) (ranges byteRanges, ok bool) {
	unit, set, found := strings.Cut(header, "=")
	if !found || !strings.EqualFold(unit, "bytes") {
		return nil, false
	}
	specs := 0
	for spec := range strings.SplitSeq(set, ",") {
		if spec = strings.Trim(spec, " \t"); spec == "" {
			continue // a list may have empty elements
		}
		if specs++; specs > rangesMax {
			return nil, false
		}
		part, satisfied, ok := parseRange(spec, size)
		if !ok {
			return nil, false
		}
		if satisfied {
			ranges = append(ranges, part)
		}
	}
	return ranges, specs > 0
}

// parseRange reads one range.
func parseRange(spec string, size int64) (part byteRange, satisfied, ok bool) {
	from, to, found := strings.Cut(spec, "-")
	if !found {
		return part, false, false
	}
	if from == "" { // the last bytes, as many as there are
		n, ok := position(to)
		return byteRange{first: size - min(n, size), last: size - 1}, n > 0, ok
	}
	if part.first, ok = position(from); !ok {
		return part, false, false
	}
	part.last = math.MaxInt64
	if to != "" {
		if part.last, ok = position(to); !ok || less(to, from) {
			return part, false, false
		}
	}
	part.last = min(part.last, size-1)
	return part, part.first < size, true
}

// position reads digits. What is beyond 64 bits is behind every value.
func position(digits string) (n int64, ok bool) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// less compares numbers of any length.
func less(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}
