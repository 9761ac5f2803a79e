package client

import (
	"fmt"
	"strings"
)

// metaNameBytesMax is the API's limit of a name.
const metaNameBytesMax = 64

// checkMeta refuses names and values that would not arrive as they are: a header's
// name has no case, and its value no spaces at its ends. How much there may be is for
// the server to say.
func checkMeta(meta map[string]string) error {
	for name, value := range meta {
		switch {
		case name == "" || len(name) > metaNameBytesMax:
			return fmt.Errorf("%w: a name in metadata has 1 to %d bytes, %.80q has %d", ErrInvalid, metaNameBytesMax, name, len(name))
		case strings.ContainsFunc(name, func(r rune) bool { return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-') }):
			return fmt.Errorf("%w: the name %q in metadata has something else than lower-case letters, digits and '-'", ErrInvalid, name)
		case !visible(value):
			return fmt.Errorf("%w: the value of %q in metadata has something else than printable ASCII; encode it, in base64 perhaps", ErrInvalid, name)
		case strings.TrimSpace(value) != value:
			return fmt.Errorf("%w: the value of %q in metadata begins or ends with a space", ErrInvalid, name)
		}
	}
	return nil
}

func visible(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
