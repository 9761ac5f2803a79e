package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// isTerminal tells whether a standard stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// isPiped reports whether standard input brings data: a pipe, a file or a socket. It is false
// for a terminal, and for the null device of background jobs, which would set a key to
// nothing.
func isPiped(stdin io.Reader) bool {
	f, ok := stdin.(*os.File)
	if !ok {
		return stdin != nil
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice == 0
}

// confirm asks a question on the terminal and expects word, unless --yes has answered. Without
// a terminal --yes is needed. It stops asking when ctx ends.
func (a *app) confirm(ctx context.Context, question, word string) error {
	if a.yes {
		return nil
	}
	if !isTerminal(a.stdin) || !isTerminal(a.stderr) {
		return &usageError{severalLines(question + "\nThere is no terminal to ask on: give --yes to confirm")}
	}
	return ask(ctx, a.stdin, a.stderr, question, word)
}

// yesFlag adds --yes to a command that asks before it does what cannot be undone.
func (a *app) yesFlag(flags *pflag.FlagSet, before string) {
	flags.BoolVar(&a.yes, "yes", false, "do not ask before "+before)
}

func ask(ctx context.Context, in io.Reader, out io.Writer, question, word string) error {
	fmt.Fprintf(out, "%s\nType %q to continue: ", question, word)
	line, err := interruptibly(ctx, func() (string, error) { return bufio.NewReader(in).ReadString('\n') })
	if ctx.Err() != nil {
		fmt.Fprintln(out) // the line of the question ends here
		return fmt.Errorf("not confirmed, so nothing was done: %w", ctx.Err())
	}
	if err != nil && err != io.EOF {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != word {
		return fmt.Errorf("not confirmed, so nothing was done")
	}
	return nil
}
