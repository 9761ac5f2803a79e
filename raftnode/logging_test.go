package raftnode

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// A library that is made to say the same again and again is heard once, and how
// often it said it is told later.
func TestZapLogger_RepeatsAreLeftOut(t *testing.T) {
	now := time.Unix(0, 0)
	var out bytes.Buffer
	core := &zapCore{l: slog.New(slog.NewTextHandler(&out, nil)), repeats: newRepeatLimit(func() time.Time { return now })}
	l := zap.New(core).With(zap.String("peer", "p"))
	for range 1000 {
		l.Warn("a stranger came")
		l.Warn("another thing")
	}
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Fatalf("%d lines:\n%s", got, out.String())
	}
	out.Reset()
	now = now.Add(repeatEvery)
	l.Warn("a stranger came")
	if got := out.String(); !strings.Contains(got, "left_out=999") || strings.Count(got, "\n") != 1 {
		t.Fatalf("later: %q", got)
	}
}
