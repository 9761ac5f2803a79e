package nodeurl

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"n1", "N_1", "_", "a.b-c", "7", strings.Repeat("n", 64)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".n", "-n", "a/b", "a b", "a\n", "a\x00", "\x1b[2J", "é", "\xff", "a=b", strings.Repeat("n", 65), strings.Repeat("n", 1<<20)} {
		if err := CheckName(name); err == nil || len(err.Error()) > 1024 {
			t.Errorf("CheckName(%.40q): %.100v", name, err)
		}
	}
}
