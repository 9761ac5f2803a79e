package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/kvstore"
)

// putFlags are the flags of a put.
type putFlags struct {
	clientFlags
	value       string
	hasValue    bool // --value was given, even if empty
	contentType string
	meta        []string
	putID       string
	ifAbsent    bool
}

func (a *app) putCommand() *cobra.Command {
	p := &putFlags{}
	cmd := &cobra.Command{
		Use:   "put KEY [VALUE|-|@FILE]",
		Short: "Set a key; it cannot be changed later",
		Long: `Set a key to a value. The first put of a key wins. The same value again is
"unchanged"; another value is a conflict and changes nothing (exit code 4).

The value is the argument; - reads it from standard input, and @FILE from a file.
Without the argument, standard input is read if something is piped in. --value takes
any text as it is, even if it begins with - or @, or is empty. If a file changes while
it is read, nothing is set.

--meta keeps a name and a value with the key; oncekv stat shows them. It can be given
more than once. Names may have lower-case letters, digits and -, values printable
ASCII. The limit is 64 names, and 2 KiB in total.`,
		Example: `  oncekv put greeting hello
  oncekv put app/v1.2.3/main.js @dist/main.js --meta commit=9f2c1d0 --meta built-by=ci
  tar c . | oncekv put backup/2026-08-01.tar`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.hasValue = cmd.Flags().Changed("value")
			return a.put(cmd.Context(), p, args)
		},
	}
	f := cmd.Flags()
	p.register(a, f, 30*time.Second)
	a.jsonFlag(f)
	f.StringVar(&p.value, "value", "", "the value, taken as it is")
	f.StringVar(&p.contentType, "content-type", "", "content type to keep with the value (default text/plain for typed text, by the name of @FILE, else application/octet-stream)")
	f.StringArrayVar(&p.meta, "meta", nil, "name=value to keep with the key; can be given more than once")
	f.BoolVar(&p.ifAbsent, "if-absent", false, "fail if the key is set, even to the same value")
	f.StringVar(&p.putID, "put-id", "", "id of this put: a repetition with the same id counts as the same put (default a new id)")
	return cmd
}

// source is where a value comes from.
type source struct {
	body        io.ReadSeeker
	contentType string
	close       func() error
}

func (a *app) put(ctx context.Context, p *putFlags, args []string) error {
	key := args[0]
	if err := checkKey(key); err != nil {
		return err
	}
	meta, err := parseMeta(p.meta)
	if err != nil {
		return err
	}
	cl, err := p.client()
	if err != nil {
		return err
	}
	from, err := a.source(ctx, p, args[1:])
	if err != nil {
		return err
	}
	defer from.close()
	if p.contentType != "" {
		from.contentType = p.contentType
	}
	if p.putID == "" {
		p.putID = client.NewPutID()
	}
	bar := a.progress("put", sizeOf(from.body))
	defer bar.finish()
	answer, err := cl.Put(ctx, key, bar.meter(from.body), client.PutOptions{
		ContentType: from.contentType,
		Meta:        meta,
		PutID:       p.putID,
		IfAbsent:    p.ifAbsent,
	})
	bar.finish()
	return a.putDone(key, p.putID, answer, err)
}

// source finds the value that the arguments mean.
func (a *app) source(ctx context.Context, p *putFlags, rest []string) (*source, error) {
	switch {
	case p.hasValue && len(rest) > 0:
		return nil, usageErrorf("the value is given twice: as an argument and with --value")
	case p.hasValue:
		return textSource(p.value), nil
	case len(rest) == 0 && !isPiped(a.stdin):
		return nil, usageErrorf("no value: give it as an argument, @FILE, or - for standard input")
	case len(rest) == 0 || rest[0] == "-":
		return a.inputSource(ctx)
	case rest[0] == "@":
		return nil, usageErrorf("no file name follows the @: %s --value=@ sets an @ itself", emptyHint)
	case strings.HasPrefix(rest[0], "@"):
		return a.fileSource(ctx, rest[0][1:])
	}
	return textSource(rest[0]), nil
}

func textSource(s string) *source {
	return &source{body: strings.NewReader(s), contentType: typedContentType(s), close: func() error { return nil }}
}

func (a *app) inputSource(ctx context.Context) (*source, error) {
	value, err := spool(ctx, a.stdin, "")
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	from := &source{body: value.body, close: value.close}
	if isTerminal(a.stdin) {
		from.contentType, err = typedInput(value.body)
	}
	return from, err
}

// typedInput returns the content type of what was typed on a terminal.
func typedInput(body io.ReadSeeker) (string, error) {
	typed, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	_, err = body.Seek(0, io.SeekStart)
	return typedContentType(string(typed)), err
}

// fileSource opens a file or a named pipe.
func (a *app) fileSource(ctx context.Context, path string) (*source, error) {
	f, err := a.openPatiently(ctx, path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read the value: %w", err)
	}
	value, err := spool(ctx, f, path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", shown(path), err), f.Close())
	}
	return &source{body: value.body, contentType: contentTypeOf(path), close: func() error {
		return errors.Join(value.close(), f.Close())
	}}, nil
}

// putResult is the --json output of a put that was decided.
type putResult struct {
	Key       string `json:"key,omitempty"`
	KeyBase64 string `json:"key_base64,omitempty"`
	Status    string `json:"status"` // created, unchanged or conflict
	Revision  uint64 `json:"revision"`
	SHA256    string `json:"sha256"` // digest of the key's value
	Size      int64  `json:"size"`
}

// putDone shows the result of a put.
func (a *app) putDone(key, putID string, answer api.PutAnswer, err error) error {
	r := putResult{Status: "unchanged", Revision: answer.Revision, SHA256: answer.SHA256, Size: answer.Size}
	r.Key, r.KeyBase64 = api.JSONKey(key)
	if answer.Created {
		r.Status = "created"
	}
	var conflict *client.ConflictError
	switch {
	case errors.As(err, &conflict):
		r.Status, r.Revision, r.SHA256, r.Size = "conflict", conflict.Revision, conflict.SHA256, conflict.Size
		if !a.json {
			return err
		}
	case errors.Is(err, api.ErrOutcomeUnknown):
		return errors.Join(err, severalLines("The key may or may not be set. To find out, repeat the same put with --put-id "+shown(putID)))
	case err != nil:
		return err
	}
	return errors.Join(err, withoutReaderGone(a.showPut(key, r)))
}

func (a *app) showPut(key string, r putResult) error {
	if a.json {
		return writeJSON(a.stdout, r)
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s: revision %d, %d bytes, sha256 %s\n", r.Status, shown(key), r.Revision, r.Size, r.SHA256)
	return err
}

// parseMeta reads name=value pairs, nil for none. It refuses empty values: metadata never
// changes, so an empty one is probably a mistake.
func parseMeta(pairs []string) (map[string]string, error) {
	var meta map[string]string
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		_, twice := meta[name]
		switch {
		case !ok || name == "":
			return nil, usageErrorf("--meta: %.200q is not name=value, such as source=ci", pair)
		case value == "":
			return nil, usageErrorf("--meta: nothing follows %s=: %s For an empty value use a line of batch", shown(name), emptyHint)
		case twice:
			return nil, usageErrorf("--meta: %s is given twice", shown(name))
		case meta == nil:
			meta = make(map[string]string)
		}
		meta[name] = value
	}
	if _, err := kvstore.MakeUserMeta(meta); err != nil {
		return nil, &usageError{fmt.Errorf("--meta: %w", err)}
	}
	return meta, nil
}
