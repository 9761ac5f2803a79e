package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/clustertest"
)

// tools are the programs that an episode runs, and their Debian packages.
func tools() map[string]string {
	return map[string]string{
		"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "strace": "strace",
		"mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount", "nsenter": "util-linux",
	}
}

// needsMachine skips the test if the machine cannot be attacked, and fails it if that was
// requested and a tool is missing.
func needsMachine(t *testing.T) {
	t.Helper()
	switch {
	case os.Getenv("ONCEKV_TEST_FULL") == "":
		t.Skip("needs root, network namespaces, nftables, strace and loop devices; set ONCEKV_TEST_FULL=1 to run it")
	case clustertest.Race && run.rows == "":
		t.Skip("every node would be some times slower; -row runs rows with the race detector")
	case runtime.GOOS != "linux":
		t.Skip("needs Linux")
	case os.Geteuid() != 0:
		t.Fatal("faults are injected as root")
	}
	for tool, pkg := range tools() {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: apt-get install %s", tool, pkg)
		}
	}
}

// commandPatience bounds every command that an episode runs.
const commandPatience = clustertest.Patience

// command runs one command to its end.
func command(input string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// do is command for what must succeed.
func do(t testing.TB, args ...string) {
	t.Helper()
	if err := command("", args...); err != nil {
		t.Fatal(err)
	}
}

// undoLater runs a command when the test ends, or when it dies. Call it before making what the
// command removes: a command that finds nothing does no harm, because its names belong to this
// run alone.
func undoLater(t testing.TB, args ...string) {
	run.janitor.owe(args...)
	t.Cleanup(func() {
		if err := command("", args...); err != nil && !t.Failed() {
			t.Errorf("clean up: %v", err)
		}
		run.janitor.paid(args...)
	})
}
