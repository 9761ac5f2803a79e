package main

import "github.com/spf13/pflag"

// registerAllowedHosts adds a flag of everything that listens.
func registerAllowedHosts(f *pflag.FlagSet, names *[]string) {
	f.StringSliceVar(names, "allowed-hosts", nil, "more host `names` to answer to, such as a proxy's: NAME, .SUFFIX for a name and all below it, or * for any name; addresses, localhost, and the names in the URLs of its flags and of the members are always allowed")
}
