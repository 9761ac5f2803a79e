package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/internal/version"
)

// build is what the binary knows about itself.
type build struct {
	Version  string `json:"version"`
	Level    uint64 `json:"level"`              // the highest level that it understands
	Revision string `json:"revision,omitempty"` // of the source
	Modified bool   `json:"modified,omitempty"` // the source had changes on top
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of oncekv",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if a.json {
				return writeJSON(a.stdout, b)
			}
			_, err := fmt.Fprintln(a.stdout, b.line())
			return err
		},
	}
	a.jsonFlag(cmd.Flags())
	return cmd
}

func (b build) line() string {
	return fmt.Sprintf("oncekv %s %s %s level %d", b.Version, b.Go, b.Platform, b.Level)
}

func readBuild() build {
	b := build{Version: version.String(), Level: level.Highest, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}
