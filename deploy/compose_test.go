package deploy_test

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestCompose(t *testing.T) {
	var file struct {
		Services map[string]struct {
			Build           struct{ Context, Dockerfile string }
			Command         []string
			Volumes         []string
			Ports           []string
			StopGracePeriod time.Duration `yaml:"stop_grace_period"`
		}
		Volumes map[string]any
	}
	if err := yaml.Unmarshal([]byte(text(t, "compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	var nodes []described
	limit := time.Minute
	for _, name := range []string{"n1", "n2", "n3", "c1", "c2", "admin"} {
		s := file.Services[name]
		if len(s.Command) == 0 || s.Build.Context != ".." || s.Build.Dockerfile != "deploy/"+containerfile {
			t.Fatalf("%s: %+v", name, s)
		}
		limit = min(limit, s.StopGracePeriod)
		d := described{host: name, args: s.Command}
		if len(s.Volumes) > 0 != strings.HasPrefix(name, "n") {
			t.Errorf("%s has the volumes %v", name, s.Volumes)
		}
		if strings.HasPrefix(name, "n") {
			volume, path, _ := strings.Cut(s.Volumes[0], ":")
			if _, ok := file.Volumes[volume]; !ok || volume != name || path != all(t, "VOLUME")[0] {
				t.Errorf("%s keeps its data in %v", name, s.Volumes)
			}
			d.env, d.dataDir = all(t, "ENV"), path
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: %s is open to everybody", name, p)
			}
		}
		nodes = append(nodes, d)
	}
	if len(file.Services) != len(nodes) {
		t.Errorf("%d services, %d of them started", len(file.Services), len(nodes))
	}
	checkCluster(t, limit, nodes...)
}
