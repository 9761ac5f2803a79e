package main

import (
	"fmt"
	"strings"

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
