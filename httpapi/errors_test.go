package httpapi

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/kvstore"
)

var errFake = errors.New("a failure nobody knows")

// TestErrorTable_Complete: every sentinel of kvstore has a row.
func TestErrorTable_Complete(t *testing.T) {
	t.Parallel()
	table, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	sentinels := sentinelsOf(t, "../kvstore")
	if len(sentinels) < 10 {
		t.Fatalf("found only %v", sentinels)
	}
	for _, name := range sentinels {
		if !strings.Contains(string(table), "is(kvstore."+name+")") && !strings.Contains(string(table), ", kvstore."+name+")") {
			t.Errorf("kvstore.%s has no row in the table of errors.go", name)
		}
	}
}

// sentinelsOf lists the exported error variables of a package.
func sentinelsOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+e.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if group, ok := d.(*ast.GenDecl); ok && group.Tok == token.VAR {
				names = append(names, errorNames(group)...)
			}
		}
	}
	return names
}

func errorNames(group *ast.GenDecl) (names []string) {
	for _, spec := range group.Specs {
		for _, name := range spec.(*ast.ValueSpec).Names {
			if strings.HasPrefix(name.Name, "Err") {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

func TestProblemFor_Table(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		op     operation
		err    error
		status int
		kind   string
	}{
		{reading, kvstore.ErrNotFound, 404, api.ProblemNotFound},
		{putting, kvstore.Key("").Validate(), 400, api.ProblemInvalid},
		{putting, kvstore.ErrInvalidContentType, 400, api.ProblemInvalid},
		{putting, kvstore.ErrInvalidPutID, 400, api.ProblemInvalid},
		{putting, &kvstore.TooLargeError{LimitBytes: 5}, 413, api.ProblemTooLarge},
		{putting, kvstore.ErrTooLarge, 413, api.ProblemTooLarge},
		{putting, kvstore.ErrDigestMismatch, 400, api.ProblemDigestMismatch},
		{putting, kvstore.ErrBodyRead, 400, api.ProblemInvalid},
		{putting, kvstore.ErrOverloaded, 429, api.ProblemOverloaded},
		{putting, kvstore.ErrTooManyUploads, 429, api.ProblemOverloaded},
		{putting, kvstore.ErrUploadIncomplete, 503, api.ProblemUnavailable},
		{putting, kvstore.ErrValueDamaged, 503, api.ProblemUnavailable},
		{putting, kvstore.ErrUnavailable, 503, api.ProblemUnavailable},
		{reading, kvstore.ErrUnavailable, 503, api.ProblemUnavailable},
		{putting, kvstore.ErrOutcomeUnknown, 504, api.ProblemOutcomeUnknown},
		{putting, fmt.Errorf("%w: %w", kvstore.ErrOutcomeUnknown, context.DeadlineExceeded), 504, api.ProblemOutcomeUnknown},
		{putting, fmt.Errorf("%w: %w", kvstore.ErrUnavailable, context.DeadlineExceeded), 503, api.ProblemUnavailable},
		{putting, fmt.Errorf("%w: %w", kvstore.ErrOutcomeUnknown, kvstore.ErrUnavailable), 504, api.ProblemOutcomeUnknown},
		{putting, context.DeadlineExceeded, 504, api.ProblemOutcomeUnknown},
		{putting, context.Canceled, 504, api.ProblemOutcomeUnknown},
		{reading, context.DeadlineExceeded, 503, api.ProblemUnavailable},
		{reading, kvstore.ErrOutcomeUnknown, 503, api.ProblemUnavailable},
		{changing, kvstore.ErrOutcomeUnknown, 504, api.ProblemOutcomeUnknown},
		{putting, kvstore.ErrDiskReserve, 507, api.ProblemDiskReserve},
		{putting, kvstore.ErrClosed, 503, api.ProblemUnavailable},
		{reading, &kvstore.CorruptError{File: "f", Offset: 1}, 500, api.ProblemInternal},
		{reading, kvstore.ErrDiverged, 500, api.ProblemInternal},
		{changing, ErrUnknownMember, 404, api.ProblemUnknownMember},
		{changing, ErrBadMember, 400, api.ProblemInvalid},
		{changing, refused("it would lose the quorum"), 409, api.ProblemRefused},
		{putting, errFake, 500, api.ProblemInternal},
	} {
		for _, err := range []error{tt.err, fmt.Errorf("attempted: %w", tt.err)} {
			p := problemFor(tt.op, err)
			if p.document.Status != tt.status || p.document.Type != tt.kind || p.document.Detail == "" || p.document.Title == "" {
				t.Errorf("%v (%d): got %d %s %q", err, tt.op, p.document.Status, p.document.Type, p.document.Detail)
			}
			retry := p.header["Retry-After"] != ""
			if want := tt.status == 429 || tt.status == 503; retry != want {
				t.Errorf("%v: Retry-After is there: %v", err, retry)
			}
		}
	}
}

// TestProblemFor_Definite cites invariant 10: an answer to a put is definite,
// or says that the outcome is unknown and that repeating the put is safe.
func TestProblemFor_Definite(t *testing.T) {
	t.Parallel()
	for _, err := range []error{kvstore.ErrOutcomeUnknown, context.Canceled, errFake} {
		detail := strings.ToLower(problemFor(putting, err).document.Detail)
		if !strings.Contains(detail, "unknown") || !strings.Contains(detail, "repeating the same put") {
			t.Errorf("%v: %q", err, detail)
		}
	}
	for _, err := range []error{kvstore.ErrUnavailable, kvstore.ErrLevel, kvstore.ErrOverloaded, kvstore.ErrClosed, kvstore.ErrBodyRead, kvstore.ErrTooManyUploads, kvstore.ErrUploadIncomplete, kvstore.ErrValueDamaged} {
		if detail := problemFor(putting, err).document.Detail; !strings.Contains(detail, "nothing was") {
			t.Errorf("%v: %q does not say that nothing happened", err, detail)
		}
	}
}

func TestProblemFor_HidesCauses(t *testing.T) {
	t.Parallel()
	if detail := problemFor(reading, fmt.Errorf("/secret/path: %w", errFake)).document.Detail; strings.Contains(detail, "secret") {
		t.Errorf("an unknown error's words reach the client: %q", detail)
	}
}
