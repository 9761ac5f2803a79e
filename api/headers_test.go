package api_test

import (
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestCheckPutID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"a", "!~", strings.Repeat("x", api.PutIDBytesMax)} {
		if err := api.CheckPutID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for id, says := range map[string]string{
		"":                                       "0 bytes",
		"a b":                                    "0x20",
		"a\x7f":                                  "0x7f",
		"é":                                      "0xc3",
		strings.Repeat("x", api.PutIDBytesMax+1): "65 bytes",
	} {
		if err := api.CheckPutID(id); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want an error about %q", id, err, says)
		}
	}
}
