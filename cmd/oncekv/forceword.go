package main

import (
	"strconv"

	"github.com/Focinfi/oncekv/raftnode"
)

// forceWord is a flag that is given alone, like a truth value, or with a word that
// was not used before. It is off while empty.
type forceWord string

// Set takes truth values and words.
func (w *forceWord) Set(s string) error {
	if on, err := strconv.ParseBool(s); err == nil {
		*w = ""
		if on {
			*w = raftnode.ForceOnce
		}
		return nil
	}
	if err := raftnode.CheckForceWord(s); err != nil {
		return err
	}
	*w = forceWord(s)
	return nil
}

// String writes the word so that Set reads the same again.
func (w *forceWord) String() string {
	if *w == "" {
		return "false"
	}
	return string(*w)
}

// Type names the kind of value in usage texts.
func (w *forceWord) Type() string { return "word" }
