package main

import (
	"fmt"
	"strings"

	"github.com/Focinfi/oncekv/kvstore"
)

// parseMeta reads name=value pairs, nil for none. It refuses empty values: metadata never
// changes, so an empty one is probably a mistake.
func parseMeta(pairs []string) (map[string]string, error) {
	var meta map[string]string
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		_, twice := meta[name]
		switch {
		case !ok || name == "":
			return nil, usageErrorf("--meta: %.200q is not name=value, such as source=ci", pair)
		case value == "":
			return nil, usageErrorf("--meta: nothing follows %s=: %s For an empty value use a line of batch", shown(name), emptyHint)
		case twice:
			return nil, usageErrorf("--meta: %s is given twice", shown(name))
		case meta == nil:
			meta = make(map[string]string)
		}
		meta[name] = value
	}
	if _, err := kvstore.MakeUserMeta(meta); err != nil {
		return nil, &usageError{fmt.Errorf("--meta: %w", err)}
	}
	return meta, nil
}
