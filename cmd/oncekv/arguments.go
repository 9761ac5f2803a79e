package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// setFromEnvironment sets every flag that was not given from its environment variable, unless
// that is empty.
func setFromEnvironment(flags *pflag.FlagSet, env func(string) string) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || first != nil {
			return
		}
		name := environmentTwin(f.Name)
		value := env(name)
		if value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			first = fmt.Errorf("environment variable %s: %w", name, err)
		}
	})
	return first
}

func environmentTwin(flag string) string {
	return "ONCEKV_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// emptyHint names the usual cause of an empty argument or flag. An empty key, prefix or
// directory would mean all of them, and an empty value would stay.
const emptyHint = "is a shell variable not set?"

// flagsTakingNothing are the flags that may be empty.
var flagsTakingNothing = []string{"value"}

// refuseEmpty refuses empty arguments and flags on a command line. An empty environment
// variable counts as not given.
func refuseEmpty(cmd *cobra.Command, args []string) error {
	if cmd.DisableFlagParsing { // a shell asks for completions of an empty word
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

// emptyAdvice says how to write what an empty argument might mean.
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
