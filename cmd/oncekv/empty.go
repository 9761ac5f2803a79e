package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// emptyHint is what an empty argument or flag most often comes from. A key, a
// prefix or a directory that is empty by mistake would mean all of them, and a
// value that is empty by mistake stays so for ever.
const emptyHint = "is a shell variable not set?"

// flagsTakingNothing are the flags that are given to say "nothing".
var flagsTakingNothing = []string{"value"}

// refuseEmpty finds arguments and flags of a command line that are there and have
// nothing in them. A flag that comes from the environment counts as not given
// then.
func refuseEmpty(cmd *cobra.Command, args []string) error {
	if cmd.DisableFlagParsing { // a shell asks for completions of what is not there yet
		return nil
	}
	if at := slices.Index(args, ""); at >= 0 {
		return fmt.Errorf("argument %d is empty: %s%s", at+1, emptyHint, emptyAdvice(cmd, at))
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && flagIsEmpty(f) && !slices.Contains(flagsTakingNothing, f.Name) {
			err = fmt.Errorf("--%s is empty: %s", f.Name, emptyHint)
		}
	})
	return err
}

// emptyAdvice is how to say what an empty argument might mean.
func emptyAdvice(cmd *cobra.Command, at int) string {
	switch {
	case cmd.Name() == "put" && at == 1:
		return " --value= sets an empty value"
	case cmd.Name() == "ls", cmd.Name() == "watch":
		return " To mean all keys, leave the argument out"
	}
	return ""
}

func flagIsEmpty(f *pflag.Flag) bool {
	list, ok := f.Value.(pflag.SliceValue)
	if !ok {
		return f.Value.String() == ""
	}
	items := list.GetSlice()
	return len(items) == 0 || slices.Contains(items, "")
}
