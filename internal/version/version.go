// Package version identifies the build.
package version

import "runtime/debug"

// release is set by the linker: -ldflags "-X …/internal/version.release=v1.2.3".
var release string

// String returns the release, or the module version and revision that the Go tool recorded, or
// "devel".
func String() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "devel" {
			v += "-" + s.Value[:12]
		}
	}
	return v
}
