package kvstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
)

func TestMakeUserMeta(t *testing.T) {
	t.Parallel()
	full := map[string]string{"n": strings.Repeat("v", userMetaBytesMax-1)}
	many := make(map[string]string)
	for i := range userMetaNamesMax {
		many[fmt.Sprintf("%04d", i)] = strings.Repeat("v", userMetaBytesMax/userMetaNamesMax-4)
	}
	for what, values := range map[string]map[string]string{
		"none": nil, "empty value": {"a": ""}, "all that a name may have": {"az-09-": "x", strings.Repeat("n", api.MetaNameBytesMax): "y"},
		"all that a value may have": {"v": "~!\"# $%&'()*+,-./:;<=>?@[\\]^_`{|}~"}, "full": full, "many": many,
	} {
		m, err := MakeUserMeta(values)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := m.Map(); !maps.Equal(got, values) || m.IsZero() != (len(values) == 0) || m.IsZero() != (got == nil) || m.IsZero() != (m.Bytes() == 0) {
			t.Errorf("%s: came back as %v", what, got)
		}
		last := ""
		for name, value := range m.All() {
			if name <= last || values[name] != value {
				t.Errorf("%s: %s comes behind %s, with %q", what, name, last, value)
			}
			last = name
		}
		for range m.All() {
			break // whoever has enough ends
		}
		if err := checkEncodedUserMeta([]byte(m.encoded)); (err == nil) != (len(values) > 0) {
			t.Errorf("%s: as encoded: %v", what, err)
		}
		text, err := json.Marshal(m)
		var back UserMeta
		if err != nil || json.Unmarshal(text, &back) != nil || back != m {
			t.Errorf("%s: %s (%v) came back as %v", what, text, err, back)
		}
	}
	again, _ := MakeUserMeta(maps.Clone(many))
	if once, _ := MakeUserMeta(many); once != again {
		t.Error("the same names and values are not equal")
	}
}

func TestMakeUserMeta_Refuses(t *testing.T) {
	t.Parallel()
	over := map[string]string{"n": strings.Repeat("v", userMetaBytesMax)}
	many := make(map[string]string)
	for i := range userMetaNamesMax + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for want, values := range map[string]map[string]string{
		"0 characters": {"": "v"}, "65 characters": {strings.Repeat("n", api.MetaNameBytesMax+1): "v"},
		"lower-case": {"Upper": "v"}, `"a_b"`: {"a_b": "v"}, `"a:"`: {"a:": "v"}, `"a b"`: {"a b": "v"}, `"\xff"`: {"\xff": "v"},
		"byte 1": {"n": "a\n"}, "byte 0": {"n": "\x7f"}, "base64": {"n": "é"}, "begins": {"n": " v"}, "ends": {"n": "v "}, "a space": {"n": " "},
		"2048 bytes": over, "65 names": many,
	} {
		m, err := MakeUserMeta(values)
		if !errors.Is(err, ErrInvalidMeta) || !strings.Contains(fmt.Sprint(err), want) || !m.IsZero() {
			t.Errorf("%.80v: %v, want an error with %s", values, err, want)
		}
		text, _ := json.Marshal(values)
		if err := json.Unmarshal(text, &m); want != `"\xff"` && (!errors.Is(err, ErrInvalidMeta) || !m.IsZero()) {
			t.Errorf("%.80s: %v", text, err)
		}
	}
	for _, text := range []string{`[]`, `{"a":1}`, `{"a":null,"b":{}}`} {
		var m UserMeta
		if err := m.UnmarshalJSON([]byte(text)); !errors.Is(err, ErrInvalidMeta) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Of each metadata there is one encoding, whoever sends it.
func TestUserMeta_OneEncodingOnly(t *testing.T) {
	t.Parallel()
	pair := func(name, value string) string {
		return string(rune(len(name))) + name + string(rune(len(value))) + value
	}
	good := pair("a", "1") + pair("b", "")
	if err := checkEncodedUserMeta([]byte(good)); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("v", 100)
	full := ""
	for i := range 20 {
		full += pair(fmt.Sprint("n", 10+i), long)
	}
	many := ""
	for i := range userMetaNamesMax + 1 {
		many += pair(fmt.Sprint("n", 10+i), "")
	}
	for what, b := range map[string]string{
		"nothing":              "",
		"in another order":     pair("b", "") + pair("a", "1"),
		"twice the same":       pair("a", "1") + pair("a", "1"),
		"no name":              pair("", "v"),
		"a name in capitals":   pair("A", "v"),
		"a control character":  pair("a", "\t"),
		"a space at the end":   pair("a", "v "),
		"a longer number":      "\x01a\x81\x00v",
		"cut in a name":        "\x02a",
		"cut behind a name":    "\x01a",
		"cut in a value":       good[:len(good)-1] + "\x02v",
		"an endless value":     "\x01a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01v",
		"over 2 KiB in pieces": full,
		"over 64 names":        many,
	} {
		if err := checkEncodedUserMeta([]byte(b)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
