package main

import (
	"strconv"

	"github.com/Focinfi/oncekv/raftnode"
)

// forceWord is a flag that is given alone, like a bool, or with a word that was not used
// before. Empty means off.
type forceWord string

// Set takes booleans and words.
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
