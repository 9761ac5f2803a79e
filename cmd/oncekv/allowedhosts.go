package main

import "github.com/spf13/pflag"

// registerAllowedHosts adds the flag to a command that listens.
func registerAllowedHosts(f *pflag.FlagSet, names *[]string) {
	f.StringSliceVar(names, "allowed-hosts", nil, "additional host `names` to answer to, such as that of a proxy: NAME, .SUFFIX for a name and everything below it, or * for any name; addresses, localhost, and the names in the URLs of the flags and of the members are always allowed")
}
