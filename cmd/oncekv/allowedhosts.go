package main

import "github.com/spf13/pflag"

// registerAllowedHosts adds a flag of everything that listens.
func registerAllowedHosts(f *pflag.FlagSet, names *[]string) {
	f.StringSliceVar(names, "allowed-hosts", nil, "further `names` by which to be asked, such as a proxy's: NAME, .SUFFIX for a name and all below it, or * for every name; addresses, localhost, and the names in its URLs and its members' are allowed anyway")
}
