package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const installed = "/usr/local/bin/oncekv"

// setting returns the one value of a key in a unit.
func setting(t *testing.T, unit, key string) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(unit) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s is there %d times", key, len(found))
	}
	return found[0]
}

// systemdNode describes the node of a unit's instance name with an environment file.
func systemdNode(t *testing.T, unit, name, host, env string) described {
	t.Helper()
	args := strings.Fields(setting(t, unit, "ExecStart"))
	if args[0] != installed {
		t.Errorf("ExecStart runs %s", args[0])
	}
	d := described{host: host, dataDir: "${STATE_DIRECTORY}"}
	for i, a := range args[1:] {
		if args[i] == "--data-dir" {
			d.args[len(d.args)-1], a = "--data-dir=${STATE_DIRECTORY}", ""
		}
		if a != "" {
			d.args = append(d.args, strings.ReplaceAll(a, "%i", name))
		}
	}
	for line := range strings.Lines(env) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			d.env = append(d.env, line)
		}
	}
	return d
}

// The units and the example settings form a cluster.
func TestSystemd_Cluster(t *testing.T) {
	unit, cacheUnit, env := text(t, "systemd/oncekv@.service"), text(t, "systemd/oncekv-cache@.service"), text(t, "systemd/n1.env")
	limit, err := time.ParseDuration(setting(t, unit, "TimeoutStopSec"))
	if err != nil {
		t.Fatal(err)
	}
	var nodes []described
	for _, n := range []string{"1", "2", "3"} {
		own := strings.NewReplacer("LISTEN=10.0.0.1:", "LISTEN=10.0.0."+n+":").Replace(env)
		nodes = append(nodes, systemdNode(t, unit, "n"+n, "10.0.0."+n, own))
	}
	nodes = append(nodes, systemdNode(t, cacheUnit, "c1", "10.0.0.11", text(t, "systemd/c1.env")),
		systemdNode(t, text(t, "systemd/oncekv-admin.service"), "admin", "127.0.0.1", text(t, "systemd/admin.env")))
	checkCluster(t, limit, nodes...)
}

// systemd itself finds nothing wrong, and little that a unit could still lock down. It does
// not run the units: that needs a machine that systemd has booted.
func TestSystemd_Verify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed (Debian package systemd)")
	}
	dir := t.TempDir()
	for _, name := range []string{"oncekv@.service", "oncekv-cache@.service", "oncekv-admin.service"} {
		path := filepath.Join(dir, name)
		unit := strings.Replace(text(t, "systemd/"+name), installed, binary, 1)
		if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"verify", "--man=no", path}, {"security", "--offline=true", "--threshold=15", "--no-pager", path}} {
			out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
			if err != nil || args[0] == "verify" && len(out) > 0 {
				t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
			}
		}
	}
}
