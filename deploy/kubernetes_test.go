package deploy_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// object has the fields of all kinds that these tests read.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Type                     string
		ClusterIP                string `yaml:"clusterIP"`
		PublishNotReadyAddresses bool   `yaml:"publishNotReadyAddresses"`
		ServiceName              string `yaml:"serviceName"`
		PodManagementPolicy      string `yaml:"podManagementPolicy"`
		Replicas                 int
		MaxUnavailable           int       `yaml:"maxUnavailable"`
		Selector                 yaml.Node // of two forms
		Ports                    []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     struct {
				EnableServiceLinks            *bool `yaml:"enableServiceLinks"`
				TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
				Containers                    []container
			}
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type container struct {
	Args []string
	Env  []struct {
		Name      string
		ValueFrom struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	StartupProbe, LivenessProbe, ReadinessProbe *probe
	VolumeMounts                                []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// UnmarshalYAML keeps the names of probes, which yaml would expect in lower case.
func (c *container) UnmarshalYAML(n *yaml.Node) error {
	type plain container
	probes := struct {
		Startup   *probe `yaml:"startupProbe"`
		Liveness  *probe `yaml:"livenessProbe"`
		Readiness *probe `yaml:"readinessProbe"`
	}{}
	if err := errors.Join(n.Decode((*plain)(c)), n.Decode(&probes)); err != nil {
		return err
	}
	c.StartupProbe, c.LivenessProbe, c.ReadinessProbe = probes.Startup, probes.Liveness, probes.Readiness
	return nil
}

// manifests returns the objects of the files that kustomization.yaml lists, by kind/name.
func manifests(t *testing.T) map[string]object {
	t.Helper()
	var list struct{ Resources []string }
	if err := yaml.Unmarshal([]byte(text(t, "kubernetes/kustomization.yaml")), &list); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("kubernetes/*.yaml")
	if err != nil || len(files) != len(list.Resources)+1 {
		t.Fatalf("kustomization.yaml lists %v of %v, %v", list.Resources, files, err)
	}
	objects := map[string]object{}
	for _, name := range list.Resources {
		f, err := os.Open(filepath.Join("kubernetes", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for d := yaml.NewDecoder(f); ; {
			var o object
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			objects[o.Kind+"/"+o.Metadata.Name] = o
		}
	}
	return objects
}

// selects reports whether an object selects the pods of a workload.
func selects(t *testing.T, o, workload object) bool {
	t.Helper()
	var plain map[string]string
	var match struct {
		Labels map[string]string `yaml:"matchLabels"`
	}
	if o.Kind == "Service" {
		if err := o.Spec.Selector.Decode(&plain); err != nil {
			t.Fatal(err)
		}
	} else if err := o.Spec.Selector.Decode(&match); err != nil {
		t.Fatal(err)
	} else {
		plain = match.Labels
	}
	return maps.Equal(plain, workload.Spec.Template.Metadata.Labels)
}

var variable = regexp.MustCompile(`\$\(([A-Z_]+)\)`)

// pod returns one pod's node, its variables filled in.
func pod(t *testing.T, c container, host string, fields map[string]string) described {
	t.Helper()
	vars := map[string]string{}
	for _, e := range c.Env {
		vars[e.Name] = fields[e.ValueFrom.FieldRef.FieldPath]
	}
	d := described{host: host, dataDir: "/data"}
	for _, a := range c.Args {
		d.args = append(d.args, variable.ReplaceAllStringFunc(a, func(v string) string {
			value := vars[strings.Trim(v, "$()")]
			if value == "" {
				t.Errorf("%s is not set", v)
			}
			return value
		}))
	}
	return d
}

// The arguments form a cluster if every name means what it means in Kubernetes.
func TestKubernetes_Cluster(t *testing.T) {
	objects := manifests(t)
	db, cache, admin := objects["StatefulSet/oncekv"], objects["Deployment/oncekv-cache"], objects["Deployment/oncekv-admin"]
	grace := db.Spec.Template.Spec.TerminationGracePeriodSeconds
	for _, o := range []object{cache, admin} {
		grace = min(grace, o.Spec.Template.Spec.TerminationGracePeriodSeconds)
	}
	var nodes []described
	for i := range db.Spec.Replicas {
		name := fmt.Sprintf("%s-%d", db.Metadata.Name, i)
		host := name + "." + db.Spec.ServiceName + ".store.svc"
		nodes = append(nodes, pod(t, db.Spec.Template.Spec.Containers[0], host, map[string]string{"metadata.name": name, "metadata.namespace": "store"}))
	}
	for i := range cache.Spec.Replicas {
		name, ip := fmt.Sprintf("%s-5f6d7c8b9-%d", cache.Metadata.Name, i), fmt.Sprintf("10.1.2.%d", i)
		nodes = append(nodes, pod(t, cache.Spec.Template.Spec.Containers[0], ip, map[string]string{"metadata.name": name, "metadata.namespace": "store", "status.podIP": ip}))
	}
	for i := range admin.Spec.Replicas {
		nodes = append(nodes, pod(t, admin.Spec.Template.Spec.Containers[0], fmt.Sprintf("10.1.3.%d", i), map[string]string{"metadata.namespace": "store"}))
	}
	checkCluster(t, time.Duration(grace)*time.Second, nodes...)
}

// Nothing leads in from outside Kubernetes: there is no access control.
func TestKubernetes_Inside(t *testing.T) {
	for name, o := range manifests(t) {
		if o.Kind == "Ingress" || o.Spec.Type != "" {
			t.Errorf("%s is open to the outside: %q", name, o.Spec.Type)
		}
	}
}

// Nothing keeps the nodes from becoming ready, or stops a majority.
func TestKubernetes_Database(t *testing.T) {
	objects := manifests(t)
	db := objects["StatefulSet/oncekv"]
	headless, budget := objects["Service/"+db.Spec.ServiceName], objects["PodDisruptionBudget/oncekv"]
	switch {
	case headless.Spec.ClusterIP != "None" || !headless.Spec.PublishNotReadyAddresses:
		t.Errorf("nodes could not find one another before they are ready: %+v", headless.Spec)
	case db.Spec.PodManagementPolicy != "Parallel":
		t.Errorf("the first pod would wait for the others, and they for it: %q", db.Spec.PodManagementPolicy)
	case budget.Spec.MaxUnavailable != 1 || !selects(t, budget, db):
		t.Errorf("the disruption budget: %+v", budget.Spec)
	case len(db.Spec.VolumeClaimTemplates) != 1 || db.Spec.VolumeClaimTemplates[0].Metadata.Name != db.Spec.Template.Spec.Containers[0].VolumeMounts[0].Name:
		t.Error("the data is not on the claimed volume")
	case db.Spec.Template.Spec.Containers[0].VolumeMounts[0].MountPath != "/data":
		t.Error("the volume is not at --data-dir")
	}
	if p := db.Spec.Template.Spec.Containers[0].StartupProbe; p == nil || p.HTTPGet.Path != "/livez" {
		t.Error("reading a long log at the start would count as dead")
	}
}

// Selectors, ports and probes fit together.
func TestKubernetes_Names(t *testing.T) {
	objects := manifests(t)
	workloads := map[string]object{}
	for name, o := range objects {
		if len(o.Spec.Template.Spec.Containers) > 0 {
			workloads[name] = o
		}
	}
	if len(workloads) != 3 || len(objects) != 8 {
		t.Fatalf("%d objects, %d with pods", len(objects), len(workloads))
	}
	for name, w := range workloads {
		c := w.Spec.Template.Spec.Containers[0]
		ports := map[string]int{}
		for _, p := range c.Ports {
			ports[p.Name] = p.ContainerPort
		}
		if !strings.Contains(strings.Join(c.Args, " "), fmt.Sprintf("--listen=0.0.0.0:%d ", ports["http"])) {
			t.Errorf("%s does not listen on its port: %v", name, ports)
		}
		if links := w.Spec.Template.Spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s gets variables of Kubernetes that begin like ours", name)
		}
		if !selects(t, w, w) {
			t.Errorf("%s does not select its own pods", name)
		}
		for path, p := range map[string]*probe{"/livez": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
			if p == nil || p.HTTPGet.Path != path || p.HTTPGet.Port != "http" {
				t.Errorf("%s: %s is not probed: %+v", name, path, p)
			}
		}
		for service, s := range objects {
			if s.Kind != "Service" || !selects(t, s, w) {
				continue
			}
			for _, p := range s.Spec.Ports {
				if ports[p.TargetPort] != p.Port {
					t.Errorf("%s has no port %s %d for %s", name, p.TargetPort, p.Port, service)
				}
			}
			delete(objects, service)
		}
	}
	for name, o := range objects {
		if o.Kind == "Service" {
			t.Errorf("%s selects nothing", name)
		}
	}
}
