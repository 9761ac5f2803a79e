package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// outcome is the result of one file of an import or one line of a batch.
type outcome int

const (
	created outcome = iota
	unchanged
	conflict
	failed
	skipped
	invalid
	unknown  // it may be put or not; repeating the put tells
	outcomes // number of outcomes
)

func (o outcome) String() string {
	return [...]string{"created", "unchanged", "conflict", "failed", "skipped", "invalid", "unknown"}[o]
}

const (
	problemsKept  = 100 // in memory and in JSON
	problemsShown = 10
)

// summaryKind is what a summary counts: files, or lines.
type summaryKind struct{ lines bool }

func (k summaryKind) command() string { return k.choose("import", "batch") }
func (k summaryKind) thing() string   { return k.choose("file", "line") }

func (k summaryKind) choose(files, lines string) string {
	if k.lines {
		return lines
	}
	return files
}

// outcomes returns the possible outcomes in the order of display.
func (k summaryKind) outcomes() []outcome {
	if k.lines {
		return []outcome{created, unchanged, conflict, invalid, failed, unknown}
	}
	return []outcome{created, unchanged, conflict, failed, unknown, skipped}
}

// problem is a file that was not set, and why.
type problem struct {
	Path       string `json:"path,omitempty"`        // relative to the imported directory
	PathBase64 string `json:"path_base64,omitempty"` // instead, if the path is not UTF-8
	Status     string `json:"status"`
	Reason     string `json:"reason"`

	path string // unescaped
}

// summary counts the files of an import or the lines of a batch. It is safe for concurrent use
// while that runs.
type summary struct {
	kind   summaryKind
	dryRun bool // nothing is set

	mu       sync.Mutex
	files    [outcomes]int
	bytes    [outcomes]int64
	problems []problem // the first problemsKept
	outage   int       // files in a row for which no cluster was found
	took     time.Duration
}

// add counts one file or line. It returns how many files in a row, this one included, found no
// cluster.
func (s *summary) add(path string, o outcome, size int64, err error) (outage int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[o]++
	s.bytes[o] += size
	if err != nil && len(s.problems) < problemsKept {
		p := problem{Status: o.String(), Reason: strings.Join(linesOf(err), "; "), path: path}
		p.Path, p.PathBase64 = api.JSONKey(path)
		s.problems = append(s.problems, p)
	}
	switch {
	case errors.Is(err, api.ErrUnavailable), errors.Is(err, api.ErrOutcomeUnknown), errors.Is(err, api.ErrOverloaded):
		s.outage++
	case o != skipped:
		s.outage = 0
	}
	return s.outage
}

// verdict returns the error that the summary amounts to; stopped is why some things were not
// tried, or nil.
func (s *summary) verdict(stopped error) error {
	switch {
	case s.files[conflict] > 0:
		return errors.Join(errConflicts, stopped)
	case stopped != nil:
		err := fmt.Errorf("the %s is not complete: %w", s.kind.command(), stopped)
		if s.files[unknown] > 0 {
			err = errors.Join(err, &undecidedError{s.files[unknown], s.kind})
		}
		return err
	case s.files[unknown] > 0:
		return &undecidedError{s.files[unknown], s.kind}
	case s.files[invalid] > 0:
		return fmt.Errorf("%d invalid %ss were not put", s.files[invalid], s.kind.thing())
	case s.files[failed] > 0:
		return fmt.Errorf("%s could not be put; fix the cause and repeat the %s", count(s.files[failed], s.kind.thing()), s.kind.command())
	}
	return nil
}

// undecidedError matches api.ErrOutcomeUnknown for some files or lines.
type undecidedError struct {
	n    int
	kind summaryKind
}

func (e *undecidedError) Error() string {
	return fmt.Sprintf("%s may or may not be put; repeat the %s to find out", count(e.n, e.kind.thing()), e.kind.command())
}

func (e *undecidedError) Is(target error) bool { return target == api.ErrOutcomeUnknown }

// write shows the counts to people.
func (s *summary) write(w io.Writer, source string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, o := range s.kind.outcomes() {
		fmt.Fprintf(t, "%s\t%d\t%s\t\n", o, s.files[o], humanBytes(s.bytes[o]))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.dryRun {
		_, err := fmt.Fprintf(w, "Nothing was set: this is what an import of %s would do now.\n", shown(source))
		return err
	}
	if s.files[unchanged] > 0 && s.files[created]+s.files[conflict]+s.files[failed]+s.files[invalid]+s.files[unknown] == 0 {
		_, err := fmt.Fprintf(w, "Nothing changed: every %s of %s was already set to the same bytes (%s).\n", s.kind.thing(), shown(source), s.took.Round(time.Millisecond))
		return err
	}
	_, err := fmt.Fprintf(w, "%s of %s in %s.\n", count(s.total(), s.kind.thing()), shown(source), s.took.Round(time.Millisecond))
	return err
}

func (s *summary) total() int {
	n := 0
	for _, files := range s.files {
		n += files
	}
	return n
}

// writeProblems names the first files that were not set.
func (s *summary) writeProblems(w io.Writer) {
	for i, p := range s.problems {
		if i == problemsShown {
			break
		}
		fmt.Fprintf(w, "%s: %s: %s\n", p.Status, shown(p.path), p.Reason)
	}
	all := s.files[conflict] + s.files[failed] + s.files[unknown] + s.files[skipped]
	if all > problemsShown {
		fmt.Fprintf(w, "… and %d more\n", all-problemsShown)
	}
}

// importDocument is the summary as --json shows it.
type importDocument struct {
	DryRun    bool        `json:"dry_run,omitempty"` // nothing was set
	Created   importCount `json:"created"`
	Unchanged importCount `json:"unchanged"`
	Conflict  importCount `json:"conflict"`
	Failed    importCount `json:"failed"`
	Unknown   importCount `json:"unknown"` // they may be set or not
	Skipped   importCount `json:"skipped"`
	Seconds   float64     `json:"seconds"`
	Problems  []problem   `json:"problems,omitempty"` // the first 100
}

type importCount struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (s *summary) document() importDocument {
	count := func(o outcome) importCount { return importCount{s.files[o], s.bytes[o]} }
	return importDocument{
		DryRun: s.dryRun, Created: count(created), Unchanged: count(unchanged), Conflict: count(conflict), Failed: count(failed), Unknown: count(unknown), Skipped: count(skipped),
		Seconds: s.took.Seconds(), Problems: s.problems,
	}
}
