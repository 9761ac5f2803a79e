package httpapi

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/Focinfi/oncekv/kvstore"
)

// expectedDigest reads Repr-Digest (RFC 9530), a dictionary of algorithms:
//
//	Repr-Digest: sha-256=:4REjxQ4yrqUVicfSKYNO/cF9zNj5ANbzgDZt3/h3Qxo=:
//
// nil means that none was sent. Other algorithms beside sha-256 are passed
// over; a digest that cannot be verified at all is refused, because whoever
// sends one wants it to count.
func expectedDigest(h http.Header) (*kvstore.Digest, error) {
	lines := h["Repr-Digest"]
	if len(lines) == 0 {
		return nil, nil
	}
	var found *kvstore.Digest
	for member := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, value, _ := strings.Cut(strings.Trim(member, " \t"), "=")
		if name != "sha-256" {
			continue
		}
		if found != nil {
			return nil, invalid("Repr-Digest names sha-256 twice; name it once")
		}
		digest, err := parseByteSequence(value)
		if err != nil {
			return nil, err
		}
		found = digest
	}
	if found == nil {
		return nil, invalid("Repr-Digest has no sha-256, the only algorithm that is verified here; send sha-256=:base64: or leave the header out")
	}
	return found, nil
}

// parseByteSequence reads :base64: and passes over parameters after it.
func parseByteSequence(text string) (*kvstore.Digest, error) {
	text, _, _ = strings.Cut(text, ";")
	text = strings.Trim(text, " \t")
	inner, opens := strings.CutPrefix(text, ":")
	inner, closes := strings.CutSuffix(inner, ":")
	raw, err := base64.StdEncoding.Strict().DecodeString(inner)
	var digest kvstore.Digest
	if !opens || !closes || err != nil || len(raw) != len(digest) {
		return nil, invalid("Repr-Digest has a sha-256 that is not 32 bytes as :base64:; it is %q", text)
	}
	copy(digest[:], raw)
	return &digest, nil
}
