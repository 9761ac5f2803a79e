package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	survivePipes()
	log.SetOutput(io.Discard) // libraries write about connections; nodes log that, see app.logger
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	stop()
	os.Exit(code)
}

// app is one run of the command: its streams, and the flags that several commands share.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	env    func(name string) string

	json bool
	yes  bool // answers every question
}

// run executes one command line and returns the exit code. The command stops when ctx ends.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env func(name string) string) int {
	stdout, stderr = output{stdout}, newMessages(stderr)
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, env: env}
	root := a.rootCommand()
	started := false // false: the error came from parsing, so it is one of usage
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		err := refuseEmpty(cmd, args)
		if err == nil {
			err = setFromEnvironment(cmd.Flags(), env)
		}
		started = err == nil
		return err
	}
	root.SetArgs(append([]string{}, args...)) // not nil: that would mean os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if _, lost := errors.AsType[*outputError](err); err != nil && !started && !lost {
		err = &usageError{plainUsage(err)}
	}
	rest := withoutReaderGone(err)
	if rest == nil && err != nil {
		return exitNoReader // without a word: "| head" is nobody's fault
	}
	report(stderr, cmd.CommandPath(), rest)
	diagnose(ctx, cmd, stderr, rest)
	return exitCode(rest)
}

// plainUsage keeps the lines of cobra's error about an unknown command, which quotes it and
// suggests others below. From the error about a number it removes the name of the Go function.
func plainUsage(err error) error {
	text := err.Error()
	if strings.HasPrefix(text, "unknown command ") {
		return severalLines(strings.TrimSpace(strings.ReplaceAll(text, "\t", "  ")))
	}
	if number, ok := errors.AsType[*strconv.NumError](err); ok {
		return errors.New(strings.Replace(text, number.Error(), number.Err.Error(), 1))
	}
	return err
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "oncekv",
		Short:   "A key-value store in which every key is set once",
		Version: readBuild().line(),
		Long: `oncekv is a key-value store in which every key is set once: a value that was
read never goes stale. It is replicated over a few database nodes and served from
any number of cache nodes.

Start with "oncekv dev", which runs the whole system in one process.

Every flag can also be set in the environment: --data-dir is ONCEKV_DATA_DIR.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 not found, 4 conflict,
5 outcome unknown, 6 the value is gone (or a node's disk failed), 7 the history changed,
141 the reader of the output went away.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.stderr)
			cmd.Help()
			return usageErrorf("no command is given")
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.AddCommand(
		a.devCommand(), a.serveCommand(), a.cacheCommand(), a.adminCommand(),
		a.putCommand(), a.getCommand(), a.statCommand(), a.lsCommand(), a.watchCommand(), a.batchCommand(), a.importCommand(),
		a.membersCommand(), a.statsCommand(), a.benchCommand(),
		a.completionCommand(), a.versionCommand(),
	)
	return root
}
