package httpapi

import (
	"mime"
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

// Content types of values.
const (
	contentTypeText     = "text/plain; charset=utf-8" // of POST /key
	contentTypeForm     = "application/x-www-form-urlencoded"
	contentTypeBytesMax = 255
)

// contentTypeOf reads a PUT's content type; none is the default. The type
// that curl -d adds by itself counts as none: nobody who puts a value means it.
func contentTypeOf(h http.Header) (string, error) {
	lines := h["Content-Type"]
	if len(lines) > 1 {
		return "", invalid("Content-Type is given %d times; give it once", len(lines))
	}
	return meantContentType(strings.Join(lines, ""))
}

// meantContentType is what a content type given with a value means.
func meantContentType(given string) (string, error) {
	if given == kvstore.DefaultContentType || strings.TrimSpace(given) == "" {
		return kvstore.DefaultContentType, nil
	}
	media, err := checkContentType(given)
	if err != nil {
		return "", err
	}
	if media == contentTypeForm {
		return kvstore.DefaultContentType, nil
	}
	return strings.TrimSpace(given), nil
}

// checkContentType refuses what could not be sent back as a header for ever
// after, and returns the media type without its parameters.
func checkContentType(text string) (media string, err error) {
	if len(text) > contentTypeBytesMax {
		return "", invalid("the content type has %d bytes; the limit is %d", len(text), contentTypeBytesMax)
	}
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return "", invalid("the content type has the byte 0x%02x; only printable ASCII can be sent back in a header", c)
		}
	}
	media, _, err = mime.ParseMediaType(text)
	if err != nil {
		return "", invalid("the content type %q does not parse: %v", text, err)
	}
	if !strings.Contains(media, "/") { // mime takes "inline" too, for Content-Disposition
		return "", invalid("the content type %q does not parse: it has no subtype; write it like text/plain", text)
	}
	return media, nil
}

// refuseEncoded refuses a body that is coded on top of its content type: what
// would be stored for ever is not what the sender means.
func refuseEncoded(h http.Header) error {
	if coding := h.Values("Content-Encoding"); len(coding) > 0 {
		return newProblem(http.StatusUnsupportedMediaType, api.ProblemUnsupportedMedia,
			"the body has the content coding %q; values are stored as they are sent, so send it without Content-Encoding",
			strings.Join(coding, ", "))
	}
	return nil
}
