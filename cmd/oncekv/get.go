package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
)

// textBytesMax bounds the values that --json may show as text. Larger ones are base64:
// checking whether they are text would need them in memory.
const textBytesMax = 1 << 20

// getFlags are the flags of a get.
type getFlags struct {
	clientFlags
	output string
}

func (a *app) getCommand() *cobra.Command {
	g := &getFlags{}
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Write a key's value to standard output",
		Long: `Write the bytes of a key's value to standard output, or to a file with -o. The
digest is verified. The file is created or replaced only after that, and keeps its
mode and owner. Symbolic links are followed; to devices and pipes the bytes are written
as they arrive. The exit code is 3 if the key is not set, and 6 if its value was retired
and is gone.

--json writes the value with its revision, digest, size, type, time and metadata; with
-o the value goes to the file and the rest to the JSON.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.get(cmd.Context(), g, args[0]) },
	}
	f := cmd.Flags()
	g.register(a, f, 30*time.Second)
	a.jsonFlag(f)
	f.StringVarP(&g.output, "output", "o", "", "file to write the value to")
	return cmd
}

// notSetError names a key that is not set. It matches api.ErrNotFound.
type notSetError string

func (e notSetError) Error() string        { return fmt.Sprintf("%q is not set", string(e)) }
func (e notSetError) Is(target error) bool { return target == api.ErrNotFound }

func (a *app) get(ctx context.Context, g *getFlags, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	cl, err := g.client()
	if err != nil {
		return err
	}
	obj, err := cl.Get(ctx, key, client.GetOptions{})
	if errors.Is(err, api.ErrNotFound) {
		a.hintPrefix(ctx, cl, key)
		return notSetError(key)
	}
	if err != nil {
		return err
	}
	defer obj.Body.Close()
	toFile := g.output != "" && g.output != "-"
	switch {
	case toFile:
		bar := a.progress("get", obj.Size)
		err = a.writeFile(ctx, g.output, bar.count(obj.Body))
		bar.finish()
		if err == nil && a.json {
			err = withoutReaderGone(writeJSON(a.stdout, obj.Record))
		}
	case a.json:
		err = writeDocument(a.stdout, obj)
	default:
		_, err = io.Copy(a.stdout, obj.Body)
	}
	if err != nil {
		return fmt.Errorf("get %q: %w", key, err)
	}
	return nil
}

// hintPrefix says how many keys begin with the key that is not set, as if it named a
// directory.
func (a *app) hintPrefix(ctx context.Context, cl *client.Client, key string) {
	const (
		countMax = 1000
		timeout  = time.Second // it is only a hint
	)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	n := 0
	for _, err := range cl.Keys(ctx, client.KeysOptions{Prefix: key, Local: true, PageLimit: countMax}) {
		if err != nil {
			return
		}
		if n++; n == countMax {
			break
		}
	}
	switch n {
	case 0:
	case 1:
		fmt.Fprintf(a.stderr, "One key begins with %s; oncekv ls shows it.\n", shown(key))
	case countMax:
		fmt.Fprintf(a.stderr, "%d keys or more begin with %s; oncekv ls shows them.\n", n, shown(key))
	default:
		fmt.Fprintf(a.stderr, "%d keys begin with %s; oncekv ls shows them.\n", n, shown(key))
	}
}

// writeDocument writes the record and the value as one JSON document, in bounded memory.
func writeDocument(w io.Writer, obj *client.Object) error {
	if obj.Size > textBytesMax {
		return streamDocument(w, obj)
	}
	value, err := io.ReadAll(obj.Body)
	if err != nil {
		return err
	}
	doc := api.Document{Record: obj.Record, Value: string(value)}
	if !utf8.Valid(value) {
		doc.Value, doc.Encoding = base64.StdEncoding.EncodeToString(value), api.EncodingBase64
	}
	return writeJSON(w, doc)
}

// streamDocument writes the same document with the value in base64, as it arrives.
func streamDocument(w io.Writer, obj *client.Object) error {
	record, err := lineOfJSON(obj.Record)
	if err != nil {
		return err
	}
	open := bytes.TrimSuffix(record, []byte("}\n"))
	if _, err := fmt.Fprintf(w, `%s,"encoding":%q,"value":"`, open, api.EncodingBase64); err != nil {
		return err
	}
	enc := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.Copy(enc, obj.Body); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\"}\n")
	return err
}
