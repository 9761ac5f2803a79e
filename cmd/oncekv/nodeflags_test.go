package main

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"testing"
)

// What libraries write to package log gets the node's format and a level.
func TestLogger_TakesPackageLog(t *testing.T) {
	flags, writer := log.Flags(), log.Writer()
	t.Cleanup(func() {
		log.SetFlags(flags)
		log.SetOutput(writer)
	})
	var out bytes.Buffer
	a := &app{stderr: &out}
	a.logger(logFlags{level: slog.LevelInfo})
	log.Print("Unsolicited response received on idle HTTP channel")
	if out.Len() > 0 {
		t.Errorf("at info: %q", out.String())
	}
	a.logger(logFlags{level: slog.LevelDebug})
	log.Print("Unsolicited response received on idle HTTP channel")
	var line struct{ Level, Msg string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Level != "DEBUG" || line.Msg == "" {
		t.Errorf("at debug: %q, %v", out.String(), err)
	}
}
