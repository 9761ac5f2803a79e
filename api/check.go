package api

import (
	"errors"
	"fmt"
	"mime"
	"strings"
)

// Limits of what a put names.
const (
	KeyBytesMax         = 1024 // of a key
	PutIDBytesMax       = 64   // of a put id
	ContentTypeBytesMax = 255  // of a content type
	MetaNameBytesMax    = 64   // of a name in metadata
)

// Replicas judge by CheckPutID, CheckMeta and CheckHeaderValue what they apply, so these
// never accept less than they once did, and more only behind a new level.

// CheckKey accepts 1 to KeyBytesMax bytes, any but NUL, and says what is wrong with
// everything else.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("it is empty; a key has 1 to %d bytes", KeyBytesMax)
	case len(key) > KeyBytesMax:
		return fmt.Errorf("it has %d bytes; a key has 1 to %d", len(key), KeyBytesMax)
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("byte %d is NUL; every other byte is allowed", strings.IndexByte(key, 0))
	}
	return nil
}

// CheckPutID accepts 1 to PutIDBytesMax bytes of visible ASCII, and says what is wrong
// with everything else.
func CheckPutID(id string) error {
	if id == "" || len(id) > PutIDBytesMax {
		return fmt.Errorf("%s has %d bytes; it takes 1 to %d", HeaderPutID, len(id), PutIDBytesMax)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return fmt.Errorf("%s has the byte 0x%02x; it takes visible ASCII", HeaderPutID, id[i])
		}
	}
	return nil
}

// CheckContentType refuses what cannot be sent back as a header, and says why. It takes
// "", and does not look for a media type as MediaType does.
func CheckContentType(text string) error {
	if len(text) > ContentTypeBytesMax {
		return fmt.Errorf("the content type has %d bytes; the limit is %d", len(text), ContentTypeBytesMax)
	}
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' {
			return fmt.Errorf("the content type has the byte 0x%02x; only printable ASCII can be sent back in a header", c)
		}
	}
	return nil
}

// MediaType returns the media type of a content type, without parameters and in lower
// case, or says what is wrong with the content type.
func MediaType(text string) (string, error) {
	if err := CheckContentType(text); err != nil {
		return "", err
	}
	media, _, err := mime.ParseMediaType(text)
	if err != nil {
		return "", fmt.Errorf("the content type %q does not parse: %w", text, err)
	}
	if !strings.Contains(media, "/") { // mime takes "inline" too, for Content-Disposition
		return "", fmt.Errorf("the content type %q does not parse: it has no subtype; write it like text/plain", text)
	}
	return media, nil
}

// CheckMeta accepts a name in metadata, 1 to MetaNameBytesMax lower-case letters, digits
// and '-', with a value that CheckHeaderValue accepts, and says what is wrong with
// everything else. How much metadata there may be is for the node to say.
func CheckMeta(name, value string) error {
	if name == "" || len(name) > MetaNameBytesMax {
		return fmt.Errorf("the name %.80q has %d characters, want 1 to %d", name, len(name), MetaNameBytesMax)
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("the name %q may hold lower-case letters, digits and '-' only", name)
		}
	}
	if err := CheckHeaderValue(value); err != nil {
		return fmt.Errorf("the value of %s: %w", name, err)
	}
	return nil
}

// CheckHeaderValue accepts what an HTTP header keeps as it is: printable ASCII without a
// space at either end.
func CheckHeaderValue(value string) error {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return fmt.Errorf("byte %d is not printable ASCII; encode it, in base64 perhaps", i)
		}
	}
	if value != "" && (value[0] == ' ' || value[len(value)-1] == ' ') {
		return errors.New("it begins or ends with a space, which HTTP headers do not keep")
	}
	return nil
}
