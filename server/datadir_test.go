package server

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/Focinfi/oncekv/internal/level"
)

// A start opens and changes nothing that another version has left.
func TestStartDatabase_OtherVersion(t *testing.T) {
	dir := t.TempDir()
	cfg := DatabaseConfig{Name: "n1", DataDir: dir, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"}
	for identity, is := range map[string]func(error) bool{
		`{"format":1,"name":"n1"}`:  func(err error) bool { return errors.As(err, new(*level.EarlierError)) },
		`{"format":99,"name":"n1"}`: func(err error) bool { return errors.As(err, new(*level.LaterError)) },
	} {
		if err := os.WriteFile(filepath.Join(dir, "identity"), []byte(identity), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := StartDatabase(t.Context(), cfg); !is(err) {
			t.Errorf("started on %s: %v", identity, err)
		}
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 2 || names[0].Name() != "identity" || names[1].Name() != lockFile {
			t.Errorf("the directory has %v, %v", names, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "identity")); string(b) != identity || err != nil {
			t.Errorf("the identity is %s, %v", b, err)
		}
	}
}

// EmptyDataDir knows every file that a node makes; otherwise it would refuse the directory.
func TestEmptyDataDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1")
	db, err := StartDatabase(t.Context(), DatabaseConfig{Name: "n1", DataDir: dir, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := EmptyDataDir(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("of a node that runs: %v", err)
	}
	if err := db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := EmptyDataDir(dir); err == nil {
		t.Error("a foreign file was not seen")
	}
	if _, err := os.Stat(filepath.Join(dir, "identity")); err != nil {
		t.Errorf("a refusal removed something: %v", err)
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if err := CheckDataDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := EmptyDataDir(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != lockFile {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := EmptyDataDir(filepath.Join(dir, "none")); err != nil {
		t.Errorf("of a directory that is not there: %v", err)
	}
}
