package nodeurl

import (
	"fmt"
	"strings"
)

const nodeNameBytesMax = 64

// CheckName says what is wrong with a name for a node, nil for nothing.
func CheckName(name string) error {
	if name == "" || len(name) > nodeNameBytesMax || strings.ContainsFunc(name, notInNodeName) || strings.ContainsRune(".-", rune(name[0])) {
		return fmt.Errorf("%.200q is not a valid name for a node: use 1 to %d letters, digits, '.', '_' or '-', not beginning with '.' or '-'", name, nodeNameBytesMax)
	}
	return nil
}

func notInNodeName(r rune) bool { return notInName(r) && r != '.' }
